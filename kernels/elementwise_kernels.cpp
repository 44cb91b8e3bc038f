// The list of elementwise kernels.
#include "kernels/elementwise.hpp"

namespace moesaic::kernels {

template <>
std::span<const ElementwiseImplementation<core::bf16>> elementwise_kernels() {
    static constexpr ElementwiseImplementation<core::bf16> list[] = {
        {"portable", Isa::portable, &detail::portable_elementwise_bf16},
#if MOESAIC_HAVE_ISA_KERNELS
        {"avx2", Isa::avx2, &detail::avx2_elementwise_bf16},
        {"avx512", Isa::avx512, &detail::avx512_elementwise_bf16},
#endif
    };
    return list;
}

template <>
std::span<const ElementwiseImplementation<float>> elementwise_kernels() {
    static constexpr ElementwiseImplementation<float> list[] = {
        {"portable", Isa::portable, &detail::portable_elementwise_float},
#if MOESAIC_HAVE_ISA_KERNELS
        {"avx2", Isa::avx2, &detail::avx2_elementwise_float},
        {"avx512", Isa::avx512, &detail::avx512_elementwise_float},
#endif
    };
    return list;
}

template <>
std::span<const ElementwiseImplementation<double>> elementwise_kernels() {
    static constexpr ElementwiseImplementation<double> list[] = {
        {"portable", Isa::portable, &detail::portable_elementwise_double},
    };
    return list;
}

}  // namespace moesaic::kernels
