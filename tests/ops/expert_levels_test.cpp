// The expert backend at every instruction set level, on random shapes: against the portable kernels, at any thread
// count, with activations kept or computed again.
#include "ops/grouped_experts.hpp"
#include "support/kernel_levels.hpp"
#include "support/random_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <random>

namespace moesaic::ops {
namespace {

using core::bf16;
using kernels::GemmKernel;
using kernels::KernelSet;
using test::random_matrix;

struct Shape {
    index_t tokens;
    index_t hidden;
    index_t intermediate;
    index_t experts;
    index_t choices;
    index_t lora_rank;
    bool hot;  ///< expert 0 is chosen by every token
    double dropout = 0;
    double alpha = 16;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
    return out << "T " << s.tokens << ", H " << s.hidden << ", I " << s.intermediate << ", E " << s.experts << ", K "
               << s.choices << ", R " << s.lora_rank << (s.hot ? ", hot" : "") << ", dropout " << s.dropout;
}

/// Everything that a layer computes.
template <class Sum>
struct Results {
    std::vector<Sum> output, grad_input, grad_weights;
    std::array<std::vector<Sum>, 6> grad_factors;
    /// The gradient of a routing weight is a dot product whose terms may cancel: errors are relative to |dy| |E(x)|.
    double size_of_grad_weights = 0;
};

template <class Sum>
double norm(const std::vector<Sum>& values) {
    return std::sqrt(std::transform_reduce(values.begin(), values.end(), 0.0, std::plus<>(),
                                           [](Sum value) { return double{value} * double{value}; }));
}

template <class Scalar>
class Layer {
public:
    using Sum = accumulator_t<Scalar>;

    explicit Layer(const Shape& shape, std::uint64_t seed) : shape_(shape) {
        const index_t e = shape.experts;
        for (const Projection p : projections) {
            const auto i = static_cast<std::size_t>(p);
            const bool down = p == Projection::down;
            const index_t in = down ? shape.intermediate : shape.hidden;
            const index_t out = down ? shape.hidden : shape.intermediate;
            const double size = 1.0 / std::sqrt(static_cast<double>(in));
            weights_[i] = random_matrix<Scalar>(e * out, in, seed + i, size);
            a_[i] = random_matrix<Sum>(e * shape.lora_rank, in, seed + 3 + i, size);
            b_[i] = random_matrix<Sum>(e * out, shape.lora_rank, seed + 6 + i, 0.2);
        }
        hidden_ = random_matrix<Scalar>(shape.tokens, shape.hidden, seed + 9);
        grad_output_ = random_matrix<Scalar>(shape.tokens, shape.hidden, seed + 10);
        routing_ = random_matrix<Sum>(shape.tokens, shape.choices, seed + 11);
        ids_.resize(shape.tokens, shape.choices);
        std::mt19937_64 random(seed);
        std::vector<std::int32_t> order(static_cast<std::size_t>(e));
        for (index_t t = 0; t < shape.tokens; ++t) {
            std::iota(order.begin(), order.end(), 0);
            std::shuffle(order.begin() + (shape.hot ? 1 : 0), order.end(), random);
            std::copy_n(order.begin(), shape.choices, ids_.view()[t]);
        }
    }

    /// Weights become BF16 values.
    void round_weights() {
        for (Matrix<Scalar>& weights : weights_) {
            std::ranges::transform(weights.flat(), weights.data(), [](Scalar value) { return Scalar(bf16(value)); });
        }
    }

    /// Weights become what a format keeps of them.
    void round_weights(WeightFormat format) {
        const KernelSet portable("portable");
        for (Matrix<Scalar>& weights : weights_) {
            const index_t rows = weights.rows() / shape_.experts;
            PackedWeights packed(format, rows, weights.cols());
            std::vector<Sum> row(static_cast<std::size_t>(weights.cols()));
            for (index_t e = 0; e < shape_.experts; ++e) {
                packed.matrix().assign_rows<Scalar>(0, weights.view().rows(e * rows, rows));
                for (index_t r = 0; r < rows; ++r) {
                    packed.widen_row(portable, r, row.data());
                    std::ranges::transform(row, weights.view()[e * rows + r],
                                           [](Sum value) { return static_cast<Scalar>(value); });
                }
            }
        }
    }

    [[nodiscard]] Results<Sum> run(const KernelSet& kernels, Activations activations = Activations::retain,
                                   bool with_input_gradients = true, std::optional<WeightFormat> format = {}) const {
        ExpertConfig config;
        config.experts = shape_.experts;
        config.experts_per_token = shape_.choices;
        config.hidden = shape_.hidden;
        config.intermediate = shape_.intermediate;
        config.max_tokens = std::max<index_t>(1, shape_.tokens);
        config.skip_lora = shape_.lora_rank == 0;
        config.lora_rank = shape_.lora_rank;
        config.lora_alpha = shape_.alpha;
        config.activations = activations;
        config.weight_format = format;
        GroupedExperts<Scalar> experts(config, std::make_shared<ExpertWorkspace<Scalar>>(), kernels);
        experts.load_weights([this](index_t expert, Projection p, PackedMatrix out) {
            const Matrix<Scalar>& all = weights_[static_cast<std::size_t>(p)];
            out.assign_rows<Scalar>(0, all.view().rows(expert * out.rows(), out.rows()));
        });
        ExpertFactors<const Sum> factors;
        ExpertFactors<Sum> gradients;
        std::array<Matrix<Sum>, 6> grads;
        for (const Projection p : projections) {
            const auto i = static_cast<std::size_t>(p);
            grads[2 * i].resize(a_[i].rows(), a_[i].cols());
            grads[2 * i + 1].resize(b_[i].rows(), b_[i].cols());
            grads[2 * i].fill(Sum(0));
            grads[2 * i + 1].fill(Sum(0));
            factors[p] = {a_[i], b_[i]};
            gradients[p] = {grads[2 * i], grads[2 * i + 1]};
        }
        if (shape_.lora_rank > 0) {
            experts.init_lora(factors, gradients);
        }
        Results<Sum> results;
        std::vector<std::uint64_t> tokens(static_cast<std::size_t>(shape_.tokens));
        std::iota(tokens.begin(), tokens.end(), std::uint64_t{100});
        SavedExperts<Scalar> saved;
        const auto output = experts.forward({hidden_, ids_, routing_, {shape_.dropout, 3, 1, tokens}}, saved, true);
        results.output.assign(output.data(), output.data() + output.rows() * output.cols());
        const auto grad = experts.backward(saved, grad_output_, with_input_gradients);
        results.grad_input.assign(grad.input.data(), grad.input.data() + grad.input.rows() * grad.input.cols());
        results.grad_weights.assign(grad.weights.data(),
                                    grad.weights.data() + grad.weights.rows() * grad.weights.cols());
        for (index_t t = 0; t < shape_.tokens; ++t) {
            double grad_size = 0;
            double output_size = 0;
            double weight_size = 0;
            for (index_t h = 0; h < shape_.hidden; ++h) {
                const double g = core::widen(grad_output_.view()(t, h));
                grad_size += g * g;
                output_size += double{output(t, h)} * double{output(t, h)};
            }
            for (const Sum weight : routing_.view().row(t)) {
                weight_size += double{weight} * double{weight};
            }
            results.size_of_grad_weights += grad_size * output_size / weight_size;
        }
        results.size_of_grad_weights = std::sqrt(results.size_of_grad_weights);
        for (std::size_t i = 0; i < grads.size(); ++i) {
            results.grad_factors[i].assign(grads[i].data(), grads[i].data() + grads[i].size());
        }
        return results;
    }

private:
    Shape shape_;
    std::array<Matrix<Scalar>, 3> weights_;
    std::array<Matrix<Sum>, 3> a_, b_;
    Matrix<Scalar> hidden_;
    Matrix<Scalar> grad_output_;
    Matrix<Sum> routing_;
    Matrix<std::int32_t> ids_;
};

/// Frobenius norm of the difference within `bound` times `size`.
template <class Sum>
void expect_close(const std::vector<Sum>& values, const std::vector<Sum>& reference, double bound, double size,
                  const char* what) {
    ASSERT_EQ(values.size(), reference.size());
    std::vector<double> differences(values.size());
    std::transform(values.begin(), values.end(), reference.begin(), differences.begin(),
                   [](Sum value, Sum expected) { return double{value} - double{expected}; });
    ASSERT_LE(norm(differences), bound * size) << what;
}

template <class Sum>
void expect_close(const Results<Sum>& results, const Results<Sum>& reference, double bound) {
    expect_close(results.output, reference.output, bound, norm(reference.output), "output");
    expect_close(results.grad_input, reference.grad_input, bound, norm(reference.grad_input), "input gradient");
    expect_close(results.grad_weights, reference.grad_weights, bound, reference.size_of_grad_weights,
                 "routing weight gradient");
    for (std::size_t i = 0; i < results.grad_factors.size(); ++i) {
        expect_close(results.grad_factors[i], reference.grad_factors[i], bound, norm(reference.grad_factors[i]),
                     i % 2 == 0 ? "gradient of A" : "gradient of B");
    }
}

template <class Sum>
void expect_same(const Results<Sum>& results, const Results<Sum>& reference) {
    EXPECT_EQ(results.output, reference.output);
    EXPECT_EQ(results.grad_input, reference.grad_input);
    EXPECT_EQ(results.grad_weights, reference.grad_weights);
    EXPECT_EQ(results.grad_factors, reference.grad_factors);
}

/// Mostly small and odd; now and then many experts, or one with more rows than a chunk.
Shape random_shape(std::mt19937& random) {
    const auto between = [&](index_t least, index_t most) {
        return std::uniform_int_distribution<index_t>(least, most)(random);
    };
    Shape s{};
    s.tokens = between(0, 3) == 0 ? between(0, 2) : between(1, 60);
    s.hidden = between(0, 3) == 0 ? 32 * between(1, 4) : between(1, 140);
    s.intermediate = between(0, 3) == 0 ? 32 * between(1, 3) : between(1, 100);
    s.experts = between(1, 9);
    if (between(0, 9) == 0) {
        s.experts = between(100, 512);
        s.hidden = between(1, 20);
        s.intermediate = between(1, 20);
    } else if (between(0, 9) == 0) {
        s.tokens = between(257, 600);
        s.hidden = between(1, 40);
        s.intermediate = between(1, 40);
        s.hot = true;
    }
    if (s.experts < 100 && between(0, 7) == 0) {  // several panels along k
        (between(0, 1) == 0 ? s.hidden : s.intermediate) = between(257, 900);
        s.tokens = std::min<index_t>(s.tokens, 80);
    }
    s.choices = between(1, std::min<index_t>(s.experts, 6));
    const std::array<index_t, 8> ranks = {0, 1, 3, 8, 16, 31, 32, 70};
    s.lora_rank = ranks[static_cast<std::size_t>(between(0, 7))];
    s.hot = s.hot || between(0, 4) == 0;
    s.dropout = between(0, 2) == 0 ? 0.25 : 0;
    return s;
}

class ExpertLevels : public test::KernelLevels {};

/// Random shapes with the results of the portable kernels, computed once for all levels.
const std::vector<std::pair<Shape, Results<float>>>& portable_results() {
    static const auto all = [] {
        const KernelSet portable("portable");
        std::vector<std::pair<Shape, Results<float>>> results;
        std::mt19937 random(7);
        for (std::uint64_t seed = 0; seed < 200; ++seed) {
            const Shape shape = random_shape(random);
            results.emplace_back(shape, Layer<bf16>(shape, seed).run(portable));
        }
        return results;
    }();
    return all;
}

TEST_P(ExpertLevels, AgreeWithPortableKernels) {
    // Sums in another order round to another BF16 now and then, by one unit in 2^8: far less than this on average.
    constexpr double bound = 2e-3;
    const KernelSet kernels(GetParam());
    std::uint64_t seed = 0;
    for (const auto& [shape, reference] : portable_results()) {
        SCOPED_TRACE(testing::Message() << shape << ", seed " << seed);
        expect_close(Layer<bf16>(shape, seed++).run(kernels), reference, bound);
        if (HasFatalFailure()) {
            return;
        }
    }
}

TEST_P(ExpertLevels, GiveTheSameBitsForAnyThreadCountAndWhenRecomputing) {
    const KernelSet kernels(GetParam());
    for (const Shape& shape : {Shape{90, 96, 70, 5, 3, 8, false}, Shape{300, 64, 40, 4, 2, 16, true},
                               Shape{300, 70, 40, 4, 2, 16, true, 0.25}}) {
        SCOPED_TRACE(testing::Message() << shape);
        const Layer<bf16> layer(shape, 5);
        for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::int8_rows}) {
            SCOPED_TRACE(facts_of(format).name);
            omp_set_num_threads(1);
            const auto reference = layer.run(kernels, Activations::retain, true, format);
            for (const int threads : {2, 3, 7}) {
                omp_set_num_threads(threads);
                expect_same(layer.run(kernels, Activations::retain, true, format), reference);
                expect_same(layer.run(kernels, Activations::recompute, true, format), reference);
            }
        }
    }
}

TEST_P(ExpertLevels, GiveTheSameLoraGradientsWithoutInputGradients) {
    const KernelSet kernels(GetParam());
    for (const double dropout : {0.0, 0.25}) {
        const Layer<bf16> layer({90, 96, 70, 5, 3, 8, false, dropout}, 5);
        const auto results = layer.run(kernels, Activations::retain, false);
        EXPECT_TRUE(results.grad_input.empty());
        EXPECT_TRUE(results.grad_weights.empty());
        EXPECT_EQ(results.grad_factors, layer.run(kernels).grad_factors);
    }
}

/// BF16 is exact in FP32: what is unpacked on the way to the kernels gives the bits of weights that were widened
/// before.
TEST_P(ExpertLevels, InFp32WithWeightsInBf16GiveTheBitsOfTheSameWeightsInFp32) {
    const KernelSet kernels(GetParam());
    std::mt19937 random(9);
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
        const Shape shape = random_shape(random);
        SCOPED_TRACE(testing::Message() << shape << ", seed " << seed);
        Layer<float> layer(shape, seed);
        layer.round_weights();
        for (const Activations activations : {Activations::retain, Activations::recompute}) {
            expect_same(layer.run(kernels, activations, true, WeightFormat::bf16),
                        layer.run(kernels, activations, true, WeightFormat::fp32));
        }
    }
}

/// Codes are decoded to the nearest BF16, by rows for forward and by pairs for backward: the bits of weights that were
/// decoded before.
TEST_P(ExpertLevels, WithWeightsInCodesGiveTheBitsOfTheSameWeightsInBf16) {
    const KernelSet kernels(GetParam());
    for (const FormatFacts& facts : weight_formats) {
        if (access_to<bf16>(facts) != Access::unpacked) {
            continue;
        }
        SCOPED_TRACE(facts.name);
        for (const Shape& shape : {Shape{20, 70, 45, 3, 2, 8, false}, Shape{75, 300, 33, 2, 1, 0, true},
                                   Shape{40, 33, 600, 2, 2, 3, false}}) {
            SCOPED_TRACE(testing::Message() << shape);
            const Layer<bf16> layer(shape, 5);
            Layer<bf16> decoded(shape, 5);
            decoded.round_weights(facts.format);
            expect_same(layer.run(kernels, Activations::retain, true, facts.format), decoded.run(kernels));
        }
    }
}

/// Rounding tokens to 8 bits is all that differs from the same weights in BF16. It errs by up to 1/254 of the largest
/// element of a row, each time that rows meet weights.
TEST_P(ExpertLevels, InIntegersErrByTheRoundingOfTokens) {
    constexpr double bound = 3e-2;
    const KernelSet kernels(GetParam());
    std::mt19937 random(11);
    std::vector<Shape> shapes = {{40, 33 * 32, 40, 2, 1, 8, false}, {35, 33, 65 * 32 - 5, 2, 2, 3, false}};  // panels
    std::generate_n(std::back_inserter(shapes), 60, [&] { return random_shape(random); });
    for (std::uint64_t seed = 0; seed < shapes.size(); ++seed) {
        const Shape& shape = shapes[seed];
        SCOPED_TRACE(testing::Message() << shape << ", seed " << seed);
        const Layer<bf16> layer(shape, seed);
        Layer<bf16> decoded(shape, seed);
        decoded.round_weights(WeightFormat::int8_rows);
        const auto results = layer.run(kernels, Activations::retain, true, WeightFormat::int8_rows);
        expect_close(results, decoded.run(kernels), bound);
        if (HasFatalFailure()) {
            return;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertLevels, testing::ValuesIn(kernels::gemm_kernels<bf16>()), test::kernel_name);

TEST(ExpertTypes, VectorKernelsAgreeInFp32) {
    const KernelSet portable("portable");
    const KernelSet best;
    std::mt19937 random(8);
    for (std::uint64_t seed = 0; seed < 100 && !testing::Test::HasFatalFailure(); ++seed) {
        const Shape shape = random_shape(random);
        SCOPED_TRACE(testing::Message() << shape << ", seed " << seed);
        const Layer<float> layer(shape, seed);
        expect_close(layer.run(best), layer.run(portable), 1e-5);
    }
}

TEST(ExpertMemory, WeightsTakeTwoBytesAndRecomputingKeepsTheRoutesOnly) {
    ExpertConfig config;
    config.experts = 4;
    config.experts_per_token = 2;
    config.hidden = 64;
    config.intermediate = 96;
    config.max_tokens = 100;
    config.lora_rank = 8;
    config.lora_alpha = 16;
    config.skip_lora = true;
    const KernelSet kernels;
    for (const Activations activations : {Activations::retain, Activations::recompute}) {
        config.activations = activations;
        GroupedExperts<bf16> experts(config, std::make_shared<ExpertWorkspace<bf16>>(), kernels);
        experts.load_weights([](index_t, Projection, PackedMatrix out) {
            Matrix<bf16> plain(out.rows(), out.cols());
            plain.fill(bf16(0.5F));
            out.assign_rows<bf16>(0, plain);
        });
        EXPECT_EQ(experts.weight_bytes(), 4U * 3 * 64 * 96 * 2);
        config.weight_format = WeightFormat::bf16;
        GroupedExperts<float> in_fp32(config, std::make_shared<ExpertWorkspace<float>>(), kernels);
        in_fp32.load_weights([](index_t, Projection, PackedMatrix) {});
        EXPECT_EQ(in_fp32.weight_bytes(), experts.weight_bytes());
        const auto hidden = random_matrix<bf16>(100, 64, 1);
        const auto weights = random_matrix<float>(100, 2, 2);
        Matrix<std::int32_t> ids(100, 2);
        for (index_t t = 0; t < 100; ++t) {
            ids.view()(t, 0) = static_cast<std::int32_t>(t % 4);
            ids.view()(t, 1) = static_cast<std::int32_t>((t + 1) % 4);
        }
        SavedExperts<bf16> saved;
        experts.forward({hidden, ids, weights, {}}, saved, true);
        const std::size_t routing = 200 * (8 + 4 + 4) + 5 * 8;
        const std::size_t gate_and_up = activations == Activations::retain ? 200U * 96 * 2 * 2 : 0U;
        EXPECT_EQ(saved.bytes(), routing + gate_and_up);
        RowCounts rows;
        count_routed(experts.config(), 100, 200, rows);
        EXPECT_EQ(bytes_of(plan_saved_experts(experts.config()), rows, ElementBytes::of<bf16>(kernels), true),
                  static_cast<double>(saved.bytes()));
    }
}

}  // namespace
}  // namespace moesaic::ops
