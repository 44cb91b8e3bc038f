// The list of matrix product kernels.
#include "kernels/detail/blocked_product.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/micro_kernel.hpp"

namespace moesaic::kernels {
namespace detail {

PackingScratch& packing_scratch() {
    thread_local PackingScratch scratch;
    return scratch;
}

namespace {

template <class T, const auto& micro_kernel>
void run_blocked(const Gemm<T>& product) {
    BlockedProduct<T>(micro_kernel, product).run();
}

template <class T, const auto& micro_kernel>
constexpr GemmKernel<T> entry(std::string_view name, Isa isa) {
    return {name, isa, &micro_kernel, run_blocked<T, micro_kernel>};
}

}  // namespace
}  // namespace detail

template <>
std::span<const GemmKernel<core::bf16>> gemm_kernels() {
    using core::bf16;
    static constexpr GemmKernel<bf16> list[] = {
        detail::entry<bf16, detail::portable_bf16>("portable", Isa::portable),
#if MOESAIC_HAVE_ISA_KERNELS
        detail::entry<bf16, detail::avx2_bf16>("avx2", Isa::avx2),
        detail::entry<bf16, detail::avx512_bf16_by_widening>("avx512", Isa::avx512),
        detail::entry<bf16, detail::avx512_bf16_pairs>("avx512_bf16", Isa::avx512_bf16),
        detail::entry<bf16, detail::amx_bf16>("amx", Isa::amx),
#endif
    };
    return list;
}

template <>
std::span<const GemmKernel<float>> gemm_kernels() {
    static constexpr GemmKernel<float> list[] = {
        detail::entry<float, detail::portable_float>("portable", Isa::portable),
#if MOESAIC_HAVE_ISA_KERNELS
        detail::entry<float, detail::avx2_float>("avx2", Isa::avx2),
        detail::entry<float, detail::avx512_float>("avx512", Isa::avx512),
#endif
    };
    return list;
}

template <>
std::span<const GemmKernel<double>> gemm_kernels() {
    static constexpr GemmKernel<double> list[] = {
        detail::entry<double, detail::portable_double>("portable", Isa::portable),
    };
    return list;
}

}  // namespace moesaic::kernels
