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

template <class T>
std::span<const GemmKernel<T>> gemm_kernels() {
    static const std::vector<GemmKernel<T>> list = [] {
        std::vector<GemmKernel<T>> all;
#define MOESAIC_GEMM(name, type, level, preference)                                 \
    if constexpr (std::is_same_v<T, type>) {                                        \
        all.push_back({#name, Isa::level, preference, &detail::name::gemm_##type}); \
    }
#include "kernels/table.inc"
        return by_preference(all);
    }();
    return list;
}

template <class T>
std::span<const ElementwiseImplementation<T>> elementwise_kernels() {
    static const std::vector<ElementwiseImplementation<T>> list = [] {
        std::vector<ElementwiseImplementation<T>> all;
#define MOESAIC_ELEMENTWISE(name, type, level, preference)                                 \
    if constexpr (std::is_same_v<T, type>) {                                               \
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

#define MOESAIC_INSTANTIATE(T)                              \
    template std::span<const GemmKernel<T>> gemm_kernels(); \
    template std::span<const ElementwiseImplementation<T>> elementwise_kernels();
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::kernels
