// Lists of the kernels of table.inc.
#include <algorithm>
#include <type_traits>

#include "kernels/detail/entries.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/peak.hpp"

namespace moesaic::kernels {
namespace {

template <class Entry>
std::vector<Entry> by_preference(std::vector<Entry> list) {
    std::ranges::stable_sort(list, {}, &Entry::preference);
    return list;
}

}  // namespace

using core::bf16;

template <class Scalar>
std::span<const GemmKernel<Scalar>> gemm_kernels() {
    static const std::vector<GemmKernel<Scalar>> list = [] {
        std::vector<GemmKernel<Scalar>> all;
#define MOESAIC_GEMM(name, type, level, preference)                                 \
    if constexpr (std::is_same_v<Scalar, type>) {                                   \
        all.push_back({#name, Isa::level, preference, &detail::name::gemm_##type}); \
    }
#include "kernels/table.inc"
        return by_preference(all);
    }();
    return list;
}

template <class Scalar>
std::span<const ElementwiseImplementation<Scalar>> elementwise_kernels() {
    static const std::vector<ElementwiseImplementation<Scalar>> list = [] {
        std::vector<ElementwiseImplementation<Scalar>> all;
#define MOESAIC_ELEMENTWISE(name, type, level, preference)                                 \
    if constexpr (std::is_same_v<Scalar, type>) {                                          \
        all.push_back({#name, Isa::level, preference, &detail::name::elementwise_##type}); \
    }
#include "kernels/table.inc"
        return by_preference(all);
    }();
    return list;
}

std::span<const PeakLoop> peak_loops() {
    static const PeakLoop list[] = {
#define MOESAIC_PEAK(level) \
    {Isa::level, detail::level::peak.operations, detail::level::peak.run, detail::level::peak.read},
#include "kernels/table.inc"
    };
    return list;
}

const PeakLoop& peak_loop(Isa isa) {
    return *std::ranges::find(peak_loops(), isa, &PeakLoop::isa);
}

#define MOESAIC_INSTANTIATE(Scalar)                              \
    template std::span<const GemmKernel<Scalar>> gemm_kernels(); \
    template std::span<const ElementwiseImplementation<Scalar>> elementwise_kernels();
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
template std::span<const GemmKernel<int8>> gemm_kernels();
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::kernels
