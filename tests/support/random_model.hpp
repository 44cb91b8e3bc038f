// Small random models and data for tests: values depend on names and places alone, so any rank can make its part.
#pragma once

#include "core/random.hpp"
#include "model/families/architecture.hpp"
#include "model/weights/weights.hpp"
#include "ops/token_batch.hpp"
#include "support/small_configs.hpp"

#include <cmath>
#include <functional>
#include <string>

namespace moesaic::test {

using core::index_t;

inline std::uint64_t hash_of(const std::string& name) {
    return std::hash<std::string>{}(name);
}

/// Normal values with a deviation of 1 / sqrt(columns), norms near 1.
template <class Scalar>
class RandomWeights final : public model::WeightSource<Scalar> {
public:
    void read(const std::string& name, const model::TensorSlice& part, core::MatrixView<Scalar> out) const override {
        const core::CounterRandom random(1, hash_of(name));
        const double deviation = 1.0 / std::sqrt(static_cast<double>(part.cols));
        for (index_t i = 0; i < out.rows(); ++i) {
            for (index_t j = 0; j < out.cols(); ++j) {
                const auto index = static_cast<std::uint64_t>((part.row_begin + i) * part.cols + part.col_begin + j);
                out(i, j) =
                    static_cast<Scalar>(static_cast<core::accumulator_t<Scalar>>(deviation * random.normal(index)));
            }
        }
    }
    void read_full_precision(const std::string& name, model::TensorRole role,
                             core::MatrixView<core::accumulator_t<Scalar>> out) const override {
        const core::CounterRandom random(1, hash_of(name));
        const double mean = role == model::TensorRole::scale ? 1.0 : 0.0;
        const double deviation = mean > 0 ? 0.1 : 1.0 / std::sqrt(static_cast<double>(out.cols()));
        for (index_t i = 0; i < out.rows(); ++i) {
            for (index_t j = 0; j < out.cols(); ++j) {
                const double draw = random.normal(static_cast<std::uint64_t>(i * out.cols() + j));
                out(i, j) = static_cast<core::accumulator_t<Scalar>>(mean + deviation * draw);
            }
        }
    }
};

/// Sequences of the given lengths with random tokens; every third label is ignored.
inline ops::TokenBatch random_batch(std::span<const index_t> lengths, index_t vocabulary, std::uint64_t seed) {
    const core::CounterRandom random(seed, 7);
    ops::TokenBatch batch;
    for (const index_t length : lengths) {
        for (index_t position = 0; position < length; ++position) {
            const auto index = static_cast<std::uint64_t>(batch.rows());
            const auto token = static_cast<std::int32_t>(random.below(index, static_cast<std::uint64_t>(vocabulary)));
            batch.tokens.push_back(token);
            batch.labels.push_back(index % 3 == 2 ? ops::ignored_label : token);
            batch.positions.push_back(position);
        }
        batch.offsets.push_back(batch.rows());
    }
    return batch;
}

/// Fills a matrix with normal values.
template <class Scalar>
void fill_random(core::MatrixView<Scalar> matrix, std::uint64_t seed, double deviation = 1.0) {
    const core::CounterRandom random(seed, 3);
    for (index_t i = 0; i < matrix.rows(); ++i) {
        for (index_t j = 0; j < matrix.cols(); ++j) {
            const double value = deviation * random.normal(static_cast<std::uint64_t>(i * matrix.cols() + j));
            matrix(i, j) = static_cast<Scalar>(static_cast<core::accumulator_t<Scalar>>(value));
        }
    }
}

template <class Scalar>
core::Matrix<Scalar> random_matrix(index_t rows, index_t cols, std::uint64_t seed, double deviation = 1.0) {
    core::Matrix<Scalar> matrix(rows, cols);
    fill_random(matrix.view(), seed, deviation);
    return matrix;
}

/// Central difference of `f` with respect to `x`, which is left unchanged. Error about 1e-9 for smooth f of order 1.
inline double central_difference(const std::function<double()>& f, double& x) {
    const double step = 1e-5;
    const double at = x;
    x = at + step;
    const double above = f();
    x = at - step;
    const double below = f();
    x = at;
    return (above - below) / (2 * step);
}

}  // namespace moesaic::test
