// The list of matrix product kernels.
#include "kernels/detail/blocked_product.hpp"
#include "kernels/detail/micro_kernel.hpp"
#include "kernels/gemm.hpp"

namespace moesaic::kernels {
namespace detail {

PanelScratch& panel_scratch() {
    thread_local PanelScratch scratch;
    return scratch;
}

namespace {

template <class T, const auto& micro_kernel>
void run_blocked(const Gemm<T>& product) {
    BlockedProduct<T>(micro_kernel, product).run();
}

}  // namespace
}  // namespace detail

template <>
std::span<const GemmKernel<core::bf16>> gemm_kernels() {
    using core::bf16;
    static constexpr GemmKernel<bf16> list[] = {
        {"portable", Isa::portable, detail::run_blocked<bf16, detail::portable_bf16>},
#if MOESAIC_HAVE_ISA_KERNELS
        {"avx2", Isa::avx2, detail::run_blocked<bf16, detail::avx2_bf16>},
        {"avx512", Isa::avx512, detail::run_blocked<bf16, detail::avx512_bf16_by_widening>},
        {"avx512_bf16", Isa::avx512_bf16, detail::run_blocked<bf16, detail::avx512_bf16_pairs>},
        {"amx", Isa::amx, detail::run_blocked<bf16, detail::amx_bf16>},
#endif
    };
    return list;
}

template <>
std::span<const GemmKernel<float>> gemm_kernels() {
    static constexpr GemmKernel<float> list[] = {
        {"portable", Isa::portable, detail::run_blocked<float, detail::portable_float>},
#if MOESAIC_HAVE_ISA_KERNELS
        {"avx2", Isa::avx2, detail::run_blocked<float, detail::avx2_float>},
        {"avx512", Isa::avx512, detail::run_blocked<float, detail::avx512_float>},
#endif
    };
    return list;
}

template <>
std::span<const GemmKernel<double>> gemm_kernels() {
    static constexpr GemmKernel<double> list[] = {
        {"portable", Isa::portable, detail::run_blocked<double, detail::portable_double>},
    };
    return list;
}

}  // namespace moesaic::kernels
