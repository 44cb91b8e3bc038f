// Random values for large operands, made by all threads.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <cstdint>

namespace moesaic::bench {

using core::index_t;

/// Fills `out` with uniform values of mean 0 and the given standard deviation, rounded to BF16, so that matrices of
/// other types get the same values. A value depends on seed, stream and place alone.
template <class T>
void fill_random(core::MatrixView<T> out, std::uint64_t seed, std::uint64_t stream, double deviation);

}  // namespace moesaic::bench
