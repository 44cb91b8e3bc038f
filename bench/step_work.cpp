#include "bench/step_work.hpp"

#include "core/scalar.hpp"
#include "model/layer_plan.hpp"
#include "ops/weights/weight_format.hpp"

#include <cmath>
#include <optional>

namespace moesaic::bench {
namespace {

constexpr double passes = 2;

}  // namespace

StepWork::StepWork(const model::Architecture& a, const mpi::GridShape& grid, double tokens) {
    const double own_tokens = tokens / static_cast<double>(grid.ranks());
    const double replica_tokens = tokens / static_cast<double>(grid.data);
    const auto choices = static_cast<double>(a.experts_per_token);
    const auto all_experts = static_cast<double>(a.experts);
    const double experts_in_use = all_experts * (1 - std::pow(1 - choices / all_experts, replica_tokens));
    const double of_rank = experts_in_use / static_cast<double>(grid.expert * grid.tensor);
    const auto add = [](measure::Work& work, double parameters, double rows, double matrices,
                        std::optional<ops::WeightFormat> stored) {
        work.operations += 2 * parameters * rows;
        work.bytes += matrices * parameters * ops::bytes_per_weight(ops::format_for<core::bf16>(stored));
    };
    for (const model::LayerPlan& layer : model::plan_layers(a, {.lora = {.rank = 0}}, {})) {
        for (const model::BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (const model::ProjectionPlan& projection : block->projections) {
                const double parameters = static_cast<double>(projection.out) * static_cast<double>(projection.in);
                projection.is_routed() ? add(experts, parameters, own_tokens * choices, of_rank, projection.stored)
                                       : add(projections, parameters, own_tokens, 1, projection.stored);
            }
        }
    }
    add(head, static_cast<double>(a.vocabulary) * static_cast<double>(a.hidden), own_tokens, 1, a.stored.embedding);
}

double StepWork::floor_seconds(const measure::MachineLimits& limits) const {
    return passes * (experts.floor_seconds(limits) + projections.floor_seconds(limits) + head.floor_seconds(limits));
}

measure::Work StepWork::sum() const {
    return {passes * (experts.operations + projections.operations + head.operations),
            passes * (experts.bytes + projections.bytes + head.bytes)};
}

}  // namespace moesaic::bench
