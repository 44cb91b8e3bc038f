#include "train/step_work.hpp"

#include "core/scalar.hpp"
#include "model/layer_plan.hpp"
#include "ops/weights/weight_format.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

namespace moesaic::train {
namespace {

constexpr double passes = 2;

/// Time of an operation of the scores of attention over that of one of other products, as of usual_efficiency.
constexpr double slowness_of_scores = 2;

double bytes_of(std::optional<ops::WeightFormat> stored) {
    return ops::bytes_per_weight(ops::format_for<core::bf16>(stored));
}

}  // namespace

RankLoad even_load(const model::Architecture& architecture, const mpi::GridShape& grid, double tokens) {
    const auto choices = static_cast<double>(architecture.experts_per_token);
    const auto experts = static_cast<double>(architecture.experts);
    const auto slices = static_cast<double>(grid.tensor);
    const double own = tokens / static_cast<double>(grid.ranks());
    const double in_use = experts * (1 - std::pow(1 - choices / experts, tokens / static_cast<double>(grid.data)));
    return {.tokens = own,
            .rows = own * choices * slices,
            .experts = in_use / static_cast<double>(grid.expert),
            .slice = 1 / slices};
}

double share_of_tokens(double experts, double held, double choices) {
    double none = 1;  // chance that no choice is held
    for (double chosen = 0; chosen < choices; ++chosen) {
        none *= std::max(experts - held - chosen, 0.0) / std::max(experts - chosen, 1.0);
    }
    return 1 - none;
}

double StepWork::floor_seconds(const core::MachineLimits& limits) const {
    return passes * (experts.floor_seconds(limits) + projections.floor_seconds(limits) + head.floor_seconds(limits));
}

core::Work StepWork::sum() const {
    return {passes * (experts.operations + projections.operations + head.operations),
            passes * (experts.bytes + projections.bytes + head.bytes)};
}

ModelWork::ModelWork(const model::Architecture& architecture) : architecture_(architecture) {
    for (const model::LayerPlan& layer : model::plan_layers(architecture, {.lora = {.rank = 0}}, {})) {
        for (const model::BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (const model::ProjectionPlan& projection : block->projections) {
                const double parameters = static_cast<double>(projection.out) * static_cast<double>(projection.in);
                (projection.is_routed() ? routed_row_ : projections_).operations += 2 * parameters;
                (projection.is_routed() ? expert_ : projections_).bytes += parameters * bytes_of(projection.stored);
            }
        }
    }
    const double parameters = static_cast<double>(architecture.vocabulary) * static_cast<double>(architecture.hidden);
    head_ = {2 * parameters, parameters * bytes_of(architecture.stored.embedding)};
}

StepWork ModelWork::of(const RankLoad& load) const {
    return {.experts = {routed_row_.operations * load.rows * load.slice, expert_.bytes * load.experts * load.slice},
            .projections = {projections_.operations * load.tokens, projections_.bytes},
            .head = {head_.operations * load.tokens, head_.bytes}};
}

double ModelWork::score_operations(double length) const {
    const model::AttentionSettings& attention = architecture_.attention;
    double pairs = 0;  // of a token and one that it sees, twice
    for (const index_t window : attention.windows) {
        const double beyond = window == 0 ? 0 : std::max(length - static_cast<double>(window), 0.0);
        pairs += length * length - beyond * beyond;
    }
    return (1 + backward_of_scores) * pairs * static_cast<double>(attention.heads) *
           static_cast<double>(attention.head_size + attention.value_size);
}

double ModelWork::operations_of_sequence(double length, double targets, bool with_experts) const {
    const double rows = with_experts ? length * static_cast<double>(architecture_.experts_per_token) : 0;
    const double products =
        routed_row_.operations * rows + projections_.operations * length + head_.operations * targets;
    return passes * products + slowness_of_scores * score_operations(length);
}

StepWork even_work(const model::Architecture& architecture, const mpi::GridShape& grid, double tokens) {
    return ModelWork(architecture).of(even_load(architecture, grid, tokens));
}

}  // namespace moesaic::train
