#include "bench/layer_check.hpp"

#include "core/error.hpp"
#include "core/random_fill.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::bench {
namespace {

using core::bf16;
using ops::projections;

template <class Scalar>
Matrix<float> copy_of(MatrixView<Scalar> view) {
    Matrix<float> copy(view.rows(), view.cols());
    for (index_t row = 0; row < view.rows(); ++row) {
        std::copy_n(view[row], view.cols(), copy.view()[row]);
    }
    return copy;
}

/// One forward and backward with the same random inputs for any Scalar; LoRA gradients of the first `experts` experts.
template <class Scalar>
LayerResult run_layer(ExpertLayer<Scalar>& layer, const LayerSettings& settings, const Routes& routes,
                      index_t experts) {
    const index_t tokens = routes.experts.rows();
    Matrix<Scalar> hidden(tokens, settings.shape.hidden);
    Matrix<Scalar> grad_output(tokens, settings.shape.hidden);
    core::fill_random<Scalar>(hidden, settings.seed + 1, 0, 1);
    core::fill_random<Scalar>(grad_output, settings.seed + 1, 1, 1);
    LayerResult result;
    result.output = copy_of(layer.forward(hidden, routes));
    layer.clear_gradients();
    const auto gradients = layer.backward(grad_output);
    result.grad_input = copy_of(gradients.input);
    result.grad_routing = copy_of(gradients.weights);
    if (settings.lora_rank > 0) {
        for (const ops::Projection p : projections) {
            const auto& [a, b] = layer.gradients()[p];
            for (const auto& all : {a, b}) {
                result.grad_lora.push_back(copy_of(all.rows(0, all.rows() / settings.shape.experts * experts)));
            }
        }
    }
    return result;
}

/// The larger one; NaN if one is NaN.
double worse(double a, double b) {
    return a >= b || std::isnan(a) ? a : b;
}

}  // namespace

double relative_error(const Matrix<float>& found, const Matrix<float>& expected) {
    double error = 0;
    double norm = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const double e = expected.data()[i];
        const double difference = static_cast<double>(found.data()[i]) - e;
        error += difference * difference;
        norm += e * e;
    }
    return std::sqrt(error / norm);
}

LayerErrors compare(const LayerResult& found, const LayerResult& expected) {
    LayerErrors errors;
    errors.output = relative_error(found.output, expected.output);
    errors.grad_input = relative_error(found.grad_input, expected.grad_input);
    errors.grad_routing = relative_error(found.grad_routing, expected.grad_routing);
    for (std::size_t i = 0; i < expected.grad_lora.size(); ++i) {
        errors.grad_lora = worse(errors.grad_lora, relative_error(found.grad_lora[i], expected.grad_lora[i]));
    }
    return errors;
}

std::vector<measure::Check> checks_of(const LayerErrors& errors, double bound) {
    return {{"error_output", errors.output, bound},
            {"error_grad_input", errors.grad_input, bound},
            {"error_grad_routing", errors.grad_routing, bound},
            {"error_grad_lora", errors.grad_lora, bound}};
}

index_t tokens_of_check(const LayerShape& shape) {
    constexpr double operations = 2e10;  // seconds with portable kernels
    const double per_token = 4.0 * static_cast<double>(shape.expert_parameters() * shape.experts_per_token);
    return static_cast<index_t>(std::clamp(operations / per_token, 4.0, 128.0));
}

CheckedLayer measure_errors(ExpertLayer<bf16>& layer, const LayerSettings& settings) {
    LayerSettings few = settings;
    few.shape.experts = std::min(settings.shape.experts, settings.shape.experts_per_token + 1);
    few.max_tokens = tokens_of_check(settings.shape);
    const Routes routes = make_routes(Routing::uniform, few.max_tokens, few.shape, settings.seed);
    const LayerResult found = run_layer(layer, settings, routes, few.shape.experts);

    const kernels::KernelSet portable("portable");
    const auto errors_with = [&](ops::WeightFormat format) {
        few.weights = format;
        ExpertLayer<float> reference(few, std::make_shared<ops::ExpertWorkspace<float>>(), portable);
        return compare(found, run_layer(reference, few, routes, few.shape.experts));
    };
    const LayerErrors computed = errors_with(settings.weights);
    const bool is_rounded = settings.weights != ops::WeightFormat::bf16;
    return {computed, is_rounded ? errors_with(ops::WeightFormat::bf16) : computed};
}

}  // namespace moesaic::bench
