// Operations on rows of elements, and the list of their implementations.
#pragma once

#include "core/scalar.hpp"
#include "kernels/detail/elementwise_table.hpp"
#include "kernels/isa.hpp"

#include <span>
#include <string_view>

namespace moesaic::kernels {

/// The operations for activations of type T; kernels/detail/elementwise_table.hpp describes them. They run on the
/// calling thread.
template <class T>
using ElementwiseKernels = ElementwiseTable<T, core::accumulator_t<T>>;

/// One line of kernels/table.inc.
template <class T>
struct ElementwiseImplementation {
    std::string_view name;
    Isa isa;
    int preference;
    const ElementwiseKernels<T>* kernels;
};

/// All implementations for T (bf16, float, double) that are built in, by ascending preference; the first one is the
/// portable reference, which takes its exponentials from the standard library.
template <class T>
[[nodiscard]] std::span<const ElementwiseImplementation<T>> elementwise_kernels();

}  // namespace moesaic::kernels
