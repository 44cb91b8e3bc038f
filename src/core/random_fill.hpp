// Random values for large matrices, made by all threads.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <cstdint>

namespace moesaic::core {

/// Where a part begins in a matrix of `cols` columns.
struct MatrixSlice {
    index_t cols = 0;
    index_t row_begin = 0;
    index_t col_begin = 0;
};

/// Fills `out`, a part of a larger matrix, with uniform values of mean 0 and the given standard deviation, rounded to
/// BF16, so that matrices of other types get the same values. A value depends on seed, stream and its place in the
/// larger matrix alone: parts fit together however the matrix is cut.
template <class T>
void fill_random(MatrixView<T> out, const MatrixSlice& part, std::uint64_t seed, std::uint64_t stream,
                 double deviation);

/// Fills a whole matrix.
template <class T>
void fill_random(MatrixView<T> out, std::uint64_t seed, std::uint64_t stream, double deviation) {
    fill_random(out, {.cols = out.cols()}, seed, stream, deviation);
}

}  // namespace moesaic::core
