#include "bench/product_check.hpp"

#include "core/random.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace moesaic::bench {
namespace {

using core::bf16;
using core::index_t;
using Vector = std::vector<double>;

/// op(X) of any storage: element (i, j) lies at i * row_step + j * col_step.
template <class Scalar>
struct Operand {
    const Scalar* data;
    index_t rows;
    index_t cols;
    index_t row_step;
    index_t col_step;

    [[nodiscard]] Vector times(const Vector& x) const {
        Vector y(static_cast<std::size_t>(rows));
#pragma omp parallel for schedule(static)
        for (index_t i = 0; i < rows; ++i) {
            double sum = 0;
            for (index_t j = 0; j < cols; ++j) {
                const double value = core::widen(data[i * row_step + j * col_step]);
                sum += value * x[static_cast<std::size_t>(j)];
            }
            y[static_cast<std::size_t>(i)] = sum;
        }
        return y;
    }
};

template <class Scalar>
Operand<Scalar> operand(const Scalar* data, index_t rows, index_t cols, index_t stride, bool transposed) {
    return transposed ? Operand<Scalar>{data, rows, cols, 1, stride} : Operand<Scalar>{data, rows, cols, stride, 1};
}

}  // namespace

double product_error(const kernels::Gemm<bf16>& p) {
    const core::CounterRandom random(0, 0);
    Vector x(static_cast<std::size_t>(p.n));
    std::uint64_t draws = 0;
    std::generate(x.begin(), x.end(), [&] { return random.normal(draws++); });
    const Vector found = operand(p.c, p.m, p.n, p.ldc, false).times(x);
    const Vector expected =
        operand(p.a, p.m, p.k, p.lda, p.transpose_a).times(operand(p.b, p.k, p.n, p.ldb, p.transpose_b).times(x));
    double worst = 0;
    for (index_t i = 0; i < p.m; ++i) {
        double norm = 0;
        for (index_t j = 0; j < p.n; ++j) {
            const double value = p.c[i * p.ldc + j];
            norm += value * value;
        }
        const auto row = static_cast<std::size_t>(i);
        const double error = std::abs(found[row] - expected[row]) / std::sqrt(norm);
        if (std::isnan(error)) {
            return error;
        }
        worst = std::max(worst, error);
    }
    return worst;
}

}  // namespace moesaic::bench
