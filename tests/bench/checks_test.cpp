// The verification before a measurement: right results pass, planted errors do not.
#include "bench/console.hpp"
#include "bench/layer_check.hpp"
#include "bench/product_check.hpp"
#include "bench/summary.hpp"
#include "core/error.hpp"
#include "core/random_fill.hpp"

#include <gtest/gtest.h>

#include <map>

#include <cmath>
#include <functional>
#include <limits>

namespace moesaic::bench {
namespace {

using core::bf16;
using View = MatrixView<const bf16>;

TEST(Limits, WhatExceedsThemIsRemarkedOn) {
    EXPECT_EQ(percent_of_limit(87.06), "87.1%");
    EXPECT_EQ(percent_of_limit(104), "104.0%!");
    measure::CaseResult result = {.name = "layer"};
    result.figures = {{.name = "fine", .unit = "ms", .floor_percent = 99.9},
                      {.name = "layer_forward", .unit = "ms", .floor_percent = 124.3},
                      {.name = "counted", .unit = "B"}};
    const auto lines = beyond_limits(result);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].find("layer: layer_forward is at 124 % of what the machine's limits allow"), 0U) << lines[0];
}

void expect_refused(const std::function<void()>& check) {
    try {
        check();
        ADD_FAILURE() << "a wrong result passes";
    } catch (const core::Error& error) {
        EXPECT_EQ(error.code(), core::ExitCode::verification_failed);
    }
}

Matrix<bf16> random_bf16(index_t rows, index_t cols, std::uint64_t stream) {
    Matrix<bf16> matrix(rows, cols);
    core::fill_random<bf16>(matrix, 1, stream, 1);
    return matrix;
}

TEST(ProductCheck, AllKernelsAndTranspositionsPass) {
    constexpr index_t m = 37;
    constexpr index_t n = 70;
    constexpr index_t k = 300;
    const kernels::KernelSet best;
    for (const bool transpose_a : {false, true}) {
        for (const bool transpose_b : {false, true}) {
            const auto a = transpose_a ? random_bf16(k, m, 0) : random_bf16(m, k, 0);
            const auto b = transpose_b ? random_bf16(n, k, 1) : random_bf16(k, n, 1);
            Matrix<float> c(m, n);
            const auto product = kernels::product(View(a), transpose_a, View(b), transpose_b, c.view());
            best.run(product);
            EXPECT_LT(product_error(product), product_error_bound / 10);
        }
    }
}

TEST(ProductCheck, OneWrongElementIsFound) {
    const auto a = random_bf16(20, 2048, 0);
    const auto b = random_bf16(2048, 2048, 1);
    Matrix<float> c(20, 2048);
    const auto product = kernels::product(View(a), false, View(b), true, c.view());
    kernels::KernelSet().run(product);
    EXPECT_LE(product_error(product), product_error_bound);
    const float right = c.view()(13, 1000);
    for (const float wrong : {right + 10, 0.0F, -right, std::numeric_limits<float>::quiet_NaN()}) {
        c.view()(13, 1000) = wrong;
        expect_refused([&] {
            const measure::Check check = {"product", product_error(product), product_error_bound};
            require_passed({&check, 1}, "test");
        });
    }
}

LayerSettings tiny_layer() {
    return {{"", 40, 24, 6, 2}, 128, 3, ops::Activations::retain, 7};
}

TEST(LayerCheck, LayerAgreesWithItsReference) {
    for (const index_t lora_rank : {index_t{3}, index_t{0}}) {
        LayerSettings settings = tiny_layer();
        settings.lora_rank = lora_rank;
        const kernels::KernelSet kernels;
        ExpertLayer<bf16> layer(settings, std::make_shared<ops::ExpertWorkspace<bf16>>(), kernels);
        const LayerErrors errors = measure_errors(layer, settings).computed;
        EXPECT_NO_THROW(require_passed(checks_of(errors), "layer"));
        EXPECT_GT(errors.output, 1e-5);  // it did compare BF16 with FP32
        EXPECT_EQ(errors.grad_lora > 1e-5, lora_rank > 0);
    }
}

/// With the weights as they are held a layer is as exact as in BF16; against those before they were rounded it is not.
TEST(LayerCheck, QuantisedWeightsAreComparedTwice) {
    LayerSettings settings = tiny_layer();
    const kernels::KernelSet kernels;
    for (const auto& [format, least] : std::map<ops::WeightFormat, double>{{ops::WeightFormat::fp8, 0.01},
                                                                           {ops::WeightFormat::int8, 0.003},
                                                                           {ops::WeightFormat::int8_rows, 0.003},
                                                                           {ops::WeightFormat::int4, 0.04},
                                                                           {ops::WeightFormat::mxfp4, 0.06}}) {
        SCOPED_TRACE(ops::facts_of(format).name);
        settings.weights = format;
        ExpertLayer<bf16> layer(settings, std::make_shared<ops::ExpertWorkspace<bf16>>(), kernels);
        const CheckedLayer errors = measure_errors(layer, settings);
        EXPECT_NO_THROW(require_passed(checks_of(errors.computed, error_bound_of(format)), "layer"));
        EXPECT_GT(errors.quantised.output, least);
        EXPECT_LT(errors.quantised.output, 8 * least);
    }
}

TEST(LayerCheck, LayerKeepsWhatIsPlanned) {
    LayerSettings settings = tiny_layer();
    const kernels::KernelSet kernels;
    for (const ops::Activations activations : {ops::Activations::retain, ops::Activations::recompute}) {
        settings.activations = activations;
        ExpertLayer<bf16> layer(settings, std::make_shared<ops::ExpertWorkspace<bf16>>(), kernels);
        static_cast<void>(measure_errors(layer, settings));
        const index_t begins = (settings.shape.experts + 1) * static_cast<index_t>(sizeof(index_t));
        EXPECT_EQ(static_cast<double>(layer.kept_bytes() - static_cast<std::size_t>(begins)),
                  kept_bytes(settings.config(), tokens_of_check(settings.shape), kernels));
    }
}

TEST(LayerCheck, PlantedErrorsAreFound) {
    const auto filled = [](index_t rows, index_t cols) {
        Matrix<float> matrix(rows, cols);
        core::fill_random<float>(matrix, 3, 0, 1);
        return matrix;
    };
    const auto make = [&] {
        LayerResult result{filled(50, 8), filled(50, 8), filled(50, 2), {}};
        result.grad_lora.push_back(filled(6, 8));
        result.grad_lora.push_back(filled(8, 6));
        return result;
    };
    const LayerResult expected = make();
    EXPECT_NO_THROW(require_passed(checks_of(compare(make(), expected)), "layer"));
    const std::vector<std::function<Matrix<float>&(LayerResult&)>> parts = {
        [](LayerResult& r) -> Matrix<float>& { return r.output; },
        [](LayerResult& r) -> Matrix<float>& { return r.grad_input; },
        [](LayerResult& r) -> Matrix<float>& { return r.grad_routing; },
        [](LayerResult& r) -> Matrix<float>& { return r.grad_lora[0]; },
        [](LayerResult& r) -> Matrix<float>& { return r.grad_lora[1]; },
    };
    for (const auto& part : parts) {
        for (const float wrong : {5.0F, std::numeric_limits<float>::quiet_NaN()}) {
            LayerResult found = make();
            part(found).view()(3, 1) = wrong;
            expect_refused([&] { require_passed(checks_of(compare(found, expected)), "layer"); });
        }
    }
}

TEST(RandomFill, HasTheDeviationAskedForAndIsTheSameInAllTypes) {
    Matrix<bf16> half(300, 101);
    Matrix<float> full(300, 101);
    core::fill_random<bf16>(half, 1, 2, 0.5);
    core::fill_random<float>(full, 1, 2, 0.5);
    double sum = 0;
    double squares = 0;
    for (std::size_t i = 0; i < full.size(); ++i) {
        ASSERT_EQ(core::widen(half.data()[i]), full.data()[i]);
        const double value = full.data()[i];
        sum += value;
        squares += value * value;
    }
    const auto count = static_cast<double>(full.size());
    EXPECT_NEAR(sum / count, 0, 0.01);
    EXPECT_NEAR(std::sqrt(squares / count), 0.5, 0.01);
}

}  // namespace
}  // namespace moesaic::bench
