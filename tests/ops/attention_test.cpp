// Attention against sums in double precision, for sequences that end anywhere in a block and for every level of
// kernels.
#include "ops/attention.hpp"
#include "ops/elementwise.hpp"
#include "support/kernel_levels.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>

namespace moesaic::ops {
namespace {

using core::bf16;
using core::Matrix;
using test::random_matrix;

struct Case {
    AttentionShape shape;
    std::vector<index_t> lengths;

    [[nodiscard]] std::vector<index_t> offsets() const {
        std::vector<index_t> all = {0};
        for (const index_t length : lengths) {
            all.push_back(all.back() + length);
        }
        return all;
    }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
    out << c.shape.heads << " heads, " << c.shape.kv_heads << " kv heads, D " << c.shape.head_size << ", Dv "
        << c.shape.value_size << ", window " << c.shape.window << ", lengths";
    for (const index_t length : c.lengths) {
        out << ' ' << length;
    }
    return out;
}

template <class Scalar>
Matrix<double> wide(const Matrix<Scalar>& in) {
    Matrix<double> out(in.rows(), in.cols());
    std::transform(in.data(), in.data() + in.size(), out.data(),
                   [](Scalar value) { return static_cast<double>(core::widen(value)); });
    return out;
}

/// Inputs, and what attention makes of them.
template <class Scalar>
struct Problem {
    using Sum = accumulator_t<Scalar>;

    explicit Problem(const Case& c)
        : shape(c.shape),
          offsets(c.offsets()),
          query(random(shape.heads * shape.head_size, 1)),
          key(random(shape.kv_heads * shape.head_size, 2)),
          value(random(shape.kv_heads * shape.value_size, 3)),
          grad_output(random(shape.heads * shape.value_size, 4)),
          output(rows(), grad_output.cols()),
          log_sum(rows(), shape.heads),
          grad_query(rows(), query.cols()),
          grad_key(rows(), key.cols()),
          grad_value(rows(), value.cols()) {}

    void run(const kernels::KernelSet& kernels) {
        const auto wide = [&](const Matrix<Scalar>& in) {
            Matrix<Sum> out(in.rows(), in.cols());
            widen<Scalar>(kernels.elementwise<Scalar>(), in, out.view());
            return out;
        };
        const Matrix<Sum> wide_query = wide(query);
        const Matrix<Sum> wide_key = wide(key);
        const Matrix<Sum> wide_value = wide(value);
        const AttentionInputs<Scalar> in = {{query, wide_query}, {key, wide_key}, {value, wide_value}, offsets};
        attention_forward<Scalar>(kernels, shape, in, output, {}, log_sum);
        attention_backward<Scalar>(kernels, shape, in, output, log_sum, grad_output, grad_query, grad_key, grad_value);
    }
    [[nodiscard]] index_t rows() const { return offsets.back(); }
    [[nodiscard]] Matrix<Scalar> random(index_t cols, std::uint64_t seed) const {
        const Matrix<float> values = random_matrix<float>(rows(), cols, seed);
        Matrix<Scalar> out(values.rows(), values.cols());
        std::transform(values.data(), values.data() + values.size(), out.data(), [](float x) { return Scalar(x); });
        return out;
    }

    AttentionShape shape;
    std::vector<index_t> offsets;
    Matrix<Scalar> query;
    Matrix<Scalar> key;
    Matrix<Scalar> value;
    Matrix<Scalar> grad_output;
    Matrix<Scalar> output;
    Matrix<Sum> log_sum;
    Matrix<Sum> grad_query;
    Matrix<Sum> grad_key;
    Matrix<Sum> grad_value;
};

/// The definition, row by row.
struct Reference {
    template <class Scalar>
    explicit Reference(const Problem<Scalar>& problem)
        : shape(problem.shape),
          query(wide(problem.query)),
          key(wide(problem.key)),
          value(wide(problem.value)),
          grad_output(wide(problem.grad_output)),
          output(query.rows(), grad_output.cols()),
          log_sum(query.rows(), shape.heads),
          grad_query(query.rows(), query.cols()),
          grad_key(key.rows(), key.cols()),
          grad_value(key.rows(), value.cols()) {
        for (Matrix<double>* sums : {&output, &grad_query, &grad_key, &grad_value}) {
            sums->fill(0);
        }
        for (std::size_t s = 0; s + 1 < problem.offsets.size(); ++s) {
            for (index_t row = problem.offsets[s]; row < problem.offsets[s + 1]; ++row) {
                for (index_t head = 0; head < shape.heads; ++head) {
                    compute(problem.offsets[s], row, head);
                }
            }
        }
    }

    static double dot(const double* a, const double* b, index_t size) {
        double sum = 0;
        for (index_t d = 0; d < size; ++d) {
            sum += a[d] * b[d];
        }
        return sum;
    }
    static void add(double factor, const double* from, double* to, index_t size) {
        for (index_t d = 0; d < size; ++d) {
            to[d] += factor * from[d];
        }
    }
    void compute(index_t begin, index_t row, index_t head) {
        const index_t size = shape.head_size;
        const index_t value_size = shape.value_size;
        const index_t kv_head = head / (shape.heads / shape.kv_heads);
        const index_t first = shape.window > 0 ? std::max(begin, row + 1 - shape.window) : begin;
        const double* q = query.view()[row] + head * size;
        const double* grad = grad_output.view()[row] + head * value_size;
        const auto key_at = [&](Matrix<double>& m, index_t j) { return m.view()[j] + kv_head * size; };
        const auto value_at = [&](Matrix<double>& m, index_t j) { return m.view()[j] + kv_head * value_size; };
        std::vector<double> p;
        double sum = 0;
        for (index_t j = first; j <= row; ++j) {
            p.push_back(std::exp(shape.scale * dot(q, key_at(key, j), size)));
            sum += p.back();
        }
        double delta = 0;
        for (index_t j = first; j <= row; ++j) {
            double& probability = p[static_cast<std::size_t>(j - first)];
            probability /= sum;
            add(probability, value_at(value, j), output.view()[row] + head * value_size, value_size);
            delta += probability * dot(grad, value_at(value, j), value_size);
        }
        log_sum.view()(row, head) = std::log(sum);
        for (index_t j = first; j <= row; ++j) {
            const double probability = p[static_cast<std::size_t>(j - first)];
            const double grad_score = shape.scale * probability * (dot(grad, value_at(value, j), value_size) - delta);
            add(grad_score, key_at(key, j), grad_query.view()[row] + head * size, size);
            add(grad_score, q, key_at(grad_key, j), size);
            add(probability, grad, value_at(grad_value, j), value_size);
        }
    }

    AttentionShape shape;
    Matrix<double> query;
    Matrix<double> key;
    Matrix<double> value;
    Matrix<double> grad_output;
    Matrix<double> output;
    Matrix<double> log_sum;
    Matrix<double> grad_query;
    Matrix<double> grad_key;
    Matrix<double> grad_value;
};

/// |actual - expected| <= bound * |expected| in the Euclidean norm of the whole matrix.
template <class U>
void expect_near(const Matrix<U>& actual, const Matrix<double>& expected, double bound, const char* name) {
    ASSERT_EQ(actual.size(), expected.size());
    double error = 0;
    double magnitude = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double difference = static_cast<double>(core::widen(actual.data()[i])) - expected.data()[i];
        error += difference * difference;
        magnitude += expected.data()[i] * expected.data()[i];
    }
    EXPECT_LE(std::sqrt(error), bound * std::sqrt(magnitude) + 1e-12) << name;
}

template <class Scalar>
void expect_correct(const kernels::KernelSet& kernels, const Case& c, double bound) {
    SCOPED_TRACE(testing::Message() << c << ", " << kernels.gemm_name<Scalar>());
    Problem<Scalar> problem(c);
    problem.run(kernels);
    const Reference reference(problem);
    expect_near(problem.output, reference.output, bound, "output");
    expect_near(problem.log_sum, reference.log_sum, bound, "log_sum");
    expect_near(problem.grad_query, reference.grad_query, bound, "grad_query");
    expect_near(problem.grad_key, reference.grad_key, bound, "grad_key");
    expect_near(problem.grad_value, reference.grad_value, bound, "grad_value");
}

TEST(Attention, IsRightForSequencesOfAnyLength) {
    const kernels::KernelSet kernels("portable");
    for (const index_t length : {1, 2, 15, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257, 289, 513}) {
        expect_correct<double>(kernels, {{2, 1, 5, 5, 0.6}, {length}}, 1e-13);
    }
}

TEST(Attention, IsRightForManyShapes) {
    const kernels::KernelSet kernels("portable");
    const std::vector<index_t> lengths = {40, 0, 1, 130, 33};
    for (const AttentionShape& shape :
         {AttentionShape{1, 1, 2, 2, 0.7}, AttentionShape{6, 6, 4, 4, 0.5}, AttentionShape{8, 1, 33, 33, 0.2},
          AttentionShape{6, 2, 32, 32, 0.2}, AttentionShape{4, 4, 40, 5, 0.2}, AttentionShape{4, 2, 3, 70, 0.7}}) {
        expect_correct<double>(kernels, {shape, lengths}, 1e-13);
    }
    expect_correct<double>(kernels, {{2, 1, 4, 4, 1}, {}}, 0);
    // Blocks are longest where there are many sequences.
    expect_correct<double>(kernels, {{4, 4, 3, 3, 1}, std::vector<index_t>(9, 260)}, 1e-13);
}

TEST(Attention, SeesNoFurtherThanTheWindow) {
    const kernels::KernelSet kernels("portable");
    for (const index_t window : {1, 2, 31, 32, 33, 100, 256, 300, 700}) {
        expect_correct<double>(kernels, {{2, 1, 5, 4, 0.6, window}, {3, 600, 130}}, 1e-13);
    }
}

class AttentionLevels : public test::KernelLevels {};

TEST_P(AttentionLevels, AreRight) {
    const kernels::KernelSet kernels(GetParam());
    for (const Case& c : {Case{{4, 2, 64, 64, 0.125}, {70, 190}}, Case{{4, 1, 128, 128, 0.09}, {161}},
                          Case{{2, 2, 96, 64, 0.1, 90}, {290}}}) {
        expect_correct<float>(kernels, c, 1e-6);
        expect_correct<bf16>(kernels, c, 8e-3);
    }
}

/// Inputs and probabilities in two parts cost forward none of the digits that choose experts.
TEST_P(AttentionLevels, ForwardInTwoPartsKeepsMoreDigitsThanBf16Has) {
    const kernels::KernelSet kernels(GetParam(), 2);
    const Case c = {{4, 2, 64, 40, 0.125, 200}, {70, 300}};
    const Problem<float> problem(c);
    Matrix<bf16> rounded(problem.rows(), problem.output.cols());
    Matrix<float> output(problem.rows(), problem.output.cols());
    Matrix<float> log_sum(problem.rows(), c.shape.heads);
    attention_forward<bf16>(kernels, c.shape,
                            {{{}, problem.query}, {{}, problem.key}, {{}, problem.value}, problem.offsets}, rounded,
                            output, log_sum);
    const Reference reference(problem);
    expect_near(output, reference.output, 3e-5, "output");
    expect_near(log_sum, reference.log_sum, 3e-5, "log_sum");
}

/// Large scores: the softmax of the first block of keys is far from that of all, and much of it vanishes.
TEST_P(AttentionLevels, KeepLargeScoresFinite) {
    const kernels::KernelSet kernels(GetParam());
    expect_correct<float>(kernels, {{1, 1, 32, 32, 12.0}, {300}}, 2e-4);
}

template <class Scalar>
void expect_same_for_all_thread_counts(const kernels::KernelSet& kernels) {
    const Case c = {{2, 1, 40, 24, 0.2}, {260, 65, 129}};
    omp_set_num_threads(1);
    Problem<Scalar> expected(c);
    expected.run(kernels);
    for (const int threads : {2, 3, 7}) {
        omp_set_num_threads(threads);
        Problem<Scalar> actual(c);
        actual.run(kernels);
        const auto same = [](const auto& a, const auto& b) {
            return std::memcmp(a.data(), b.data(), a.size() * sizeof(a.data()[0])) == 0;
        };
        EXPECT_TRUE(same(actual.output, expected.output)) << threads;
        EXPECT_TRUE(same(actual.log_sum, expected.log_sum)) << threads;
        EXPECT_TRUE(same(actual.grad_query, expected.grad_query)) << threads;
        EXPECT_TRUE(same(actual.grad_key, expected.grad_key)) << threads;
        EXPECT_TRUE(same(actual.grad_value, expected.grad_value)) << threads;
    }
}

TEST_P(AttentionLevels, GiveTheSameForAllThreadCounts) {
    const kernels::KernelSet kernels(GetParam());
    expect_same_for_all_thread_counts<bf16>(kernels);
    expect_same_for_all_thread_counts<float>(kernels);
}

INSTANTIATE_TEST_SUITE_P(All, AttentionLevels, testing::ValuesIn(kernels::gemm_kernels<bf16>()), test::kernel_name);

}  // namespace
}  // namespace moesaic::ops
