#include "bench/expert_layer.hpp"

#include "core/random_fill.hpp"
#include "ops/grouped_experts.hpp"

#include <omp.h>

#include <cmath>

namespace moesaic::bench {
namespace {

using core::bf16;
using ops::Projection;
using ops::projections;

constexpr auto bf16_bytes = static_cast<index_t>(sizeof(bf16));
constexpr auto float_bytes = static_cast<index_t>(sizeof(float));

enum class Tensor : std::uint8_t { weight, lora_a, lora_b };
constexpr std::uint64_t tensors = 3;

/// One stream of random numbers per expert, projection and tensor.
std::uint64_t stream_of(index_t expert, Projection projection, Tensor tensor) {
    return (static_cast<std::uint64_t>(expert) * projections.size() + static_cast<std::uint64_t>(projection)) *
               tensors +
           static_cast<std::uint64_t>(tensor);
}

double one_over_root(index_t fan_in) {
    return 1.0 / std::sqrt(static_cast<double>(fan_in));
}

/// Elements of the LoRA factors of a layer.
index_t lora_parameters(const LayerSettings& settings) {
    return 3 * settings.shape.experts * settings.lora_rank * (settings.shape.hidden + settings.shape.intermediate);
}

}  // namespace

ops::ExpertConfig LayerSettings::config() const {
    ops::ExpertConfig config;
    config.experts = shape.experts;
    config.experts_per_token = shape.experts_per_token;
    config.hidden = shape.hidden;
    config.intermediate = shape.intermediate;
    config.max_tokens = max_tokens;
    config.lora_rank = lora_rank;
    config.lora_alpha = static_cast<double>(lora_rank);  // scale 1; speed does not depend on it
    config.skip_lora = lora_rank == 0;
    config.activations = activations;
    config.weight_format = weights;
    return config;
}

template <class Scalar>
ExpertLayer<Scalar>::ExpertLayer(const LayerSettings& settings, std::shared_ptr<ops::ExpertWorkspace<Scalar>> workspace,
                                 const kernels::KernelSet& kernels)
    : experts_(std::make_unique<ops::GroupedExperts<Scalar>>(settings.config(), std::move(workspace), kernels)) {
    experts_->load_weights([&](index_t expert, Projection projection, ops::PackedMatrix out) {
        Matrix<Scalar> plain(out.rows(), out.cols());
        core::fill_random<Scalar>(plain, settings.seed, stream_of(expert, projection, Tensor::weight),
                                  one_over_root(out.cols()));
        out.assign_rows<Scalar>(0, plain);
    });
    if (settings.lora_rank > 0) {
        make_lora(settings);
    }
}

template <class Scalar>
void ExpertLayer<Scalar>::make_lora(const LayerSettings& settings) {
    const LayerShape& shape = settings.shape;
    const index_t lora_rank = settings.lora_rank;
    ops::ExpertFactors<const Sum> factors;
    for (const Projection p : projections) {
        const bool down = p == Projection::down;
        const index_t in = down ? shape.intermediate : shape.hidden;
        const index_t out = down ? shape.hidden : shape.intermediate;
        Storage& factor = factor_storage_[static_cast<std::size_t>(p)];
        Storage& gradient = gradient_storage_[static_cast<std::size_t>(p)];
        for (Storage* storage : {&factor, &gradient}) {
            storage->a.resize(shape.experts * lora_rank, in);
            storage->b.resize(shape.experts * out, lora_rank);
        }
        for (index_t e = 0; e < shape.experts; ++e) {
            // B is far from zero, unlike at the start of training: otherwise dA would vanish.
            core::fill_random<Sum>(factor.a.view().rows(e * lora_rank, lora_rank), settings.seed,
                                   stream_of(e, p, Tensor::lora_a), one_over_root(in));
            core::fill_random<Sum>(factor.b.view().rows(e * out, out), settings.seed, stream_of(e, p, Tensor::lora_b),
                                   0.3 * one_over_root(lora_rank));
        }
        factors[p] = {factor.a, factor.b};
        gradients_[p] = {gradient.a, gradient.b};
    }
    clear_gradients();
    experts_->init_lora(factors, gradients_);
}

template <class Scalar>
MatrixView<const accumulator_t<Scalar>> ExpertLayer<Scalar>::forward(MatrixView<const Scalar> hidden,
                                                                     const Routes& routes) {
    return experts_->forward({hidden, routes.experts, routes.weights, {}}, saved_, /*keep=*/true);
}

template <class Scalar>
ops::ExpertGradients<Scalar> ExpertLayer<Scalar>::backward(MatrixView<const Scalar> grad_output) {
    return experts_->backward(saved_, grad_output);
}

template <class Scalar>
std::size_t ExpertLayer<Scalar>::kept_bytes() const noexcept {
    const auto hidden = static_cast<std::size_t>(saved_.hidden.rows() * saved_.hidden.cols());
    const auto weights = static_cast<std::size_t>(saved_.weights.rows() * saved_.weights.cols());
    return saved_.bytes() + hidden * sizeof(Scalar) + weights * sizeof(Sum);
}

template <class Scalar>
void ExpertLayer<Scalar>::clear_gradients() {
    for (Storage& gradient : gradient_storage_) {
        gradient.a.fill(0);
        gradient.b.fill(0);
    }
}

double weight_bytes(const LayerShape& shape, ops::WeightFormat format) {
    return static_cast<double>(shape.experts * shape.expert_parameters()) * ops::bytes_per_weight(format);
}

namespace {

ops::RowCounts count_rows(const ops::ExpertConfig& config, index_t tokens) {
    ops::RowCounts rows;
    rows[ops::Rows::threads] = omp_get_max_threads();
    ops::count_routed(config, static_cast<double>(tokens), static_cast<double>(tokens * config.experts_per_token),
                      rows);
    return rows;
}

/// Bytes of ops::SavedExperts.
double saved_bytes(const ops::ExpertConfig& config, index_t tokens, const kernels::KernelSet& kernels) {
    ops::RowCounts rows = count_rows(config, tokens);
    rows[ops::Rows::once] = 0;  // where each expert's rows begin
    return ops::bytes_of(ops::plan_saved_experts(config), rows, ops::ElementBytes::of<bf16>(kernels), true);
}

}  // namespace

double kept_bytes(const ops::ExpertConfig& config, index_t tokens, const kernels::KernelSet& kernels) {
    const index_t inputs = tokens * (config.hidden * bf16_bytes + config.experts_per_token * float_bytes);
    return saved_bytes(config, tokens, kernels) + static_cast<double>(inputs);
}

index_t memory_of_layers(const LayerSettings& settings, index_t layers, const kernels::KernelSet& kernels) {
    const LayerShape& shape = settings.shape;
    const ops::ExpertConfig config = settings.config();
    const index_t tokens = settings.max_tokens;
    const index_t factors = lora_parameters(settings) * (2 * float_bytes + bf16_bytes);  // with gradients and operands
    const double workspace = ops::bytes_of(ops::plan_expert_workspace(config, false), count_rows(config, tokens),
                                           ops::ElementBytes::of<bf16>(kernels), true);
    const index_t inputs = tokens * shape.hidden * 2 * bf16_bytes;  // hidden states and gradients of the output
    const index_t routes =
        tokens * shape.experts_per_token * (static_cast<index_t>(sizeof(std::int32_t)) + float_bytes);
    const double layer = weight_bytes(shape, settings.weights) + static_cast<double>(factors + routes) +
                         saved_bytes(config, tokens, kernels);
    const double all = static_cast<double>(layers) * layer + workspace + static_cast<double>(inputs);
    return static_cast<index_t>(all);
}

template class ExpertLayer<bf16>;
template class ExpertLayer<float>;

}  // namespace moesaic::bench
