// Operations on rows of elements, and the list of their implementations.
#pragma once

#include "core/scalar.hpp"
#include "kernels/detail/elementwise_table.hpp"
#include "kernels/isa.hpp"

#include <span>
#include <string_view>

namespace moesaic::kernels {

/// The operations for activations of type Scalar; kernels/detail/elementwise_table.hpp describes them. They run on the
/// calling thread.
template <class Scalar>
using ElementwiseKernels = ElementwiseTable<Scalar, core::accumulator_t<Scalar>>;

/// One line of kernels/table.inc.
template <class Scalar>
struct ElementwiseImplementation {
    std::string_view name;
    Isa isa;
    int preference;
    const ElementwiseKernels<Scalar>* kernels;
};

/// All implementations for Scalar (bf16, float, double) that are built in, by ascending preference; the first one is
/// the portable reference, which takes its exponentials from the standard library.
template <class Scalar>
[[nodiscard]] std::span<const ElementwiseImplementation<Scalar>> elementwise_kernels();

}  // namespace moesaic::kernels
