#include "model/feed_forward/moe_plan.hpp"

#include <algorithm>
#include <span>

namespace moesaic::model {

using ops::Projection;

const std::string& projection_name(const TensorNames& names, Projection projection) {
    return projection == Projection::gate ? names.gate : projection == Projection::up ? names.up : names.down;
}

ExpertShare::ExpertShare(const Architecture& architecture, const GridPlace& place)
    : experts(core::slice_of(architecture.experts, place.expert, place.expert_ranks)),
      intermediate(core::slice_of(architecture.expert_intermediate, place.tensor, place.tensor_ranks)) {}

namespace {

/// The intermediate dimension is the output of gate and up, and the input of down.
ProjectionPlan plan_routed(const Architecture& architecture, index_t layer, Projection projection,
                           const LoraSettings& lora, const ExpertShare& share) {
    const bool down = projection == Projection::down;
    const std::string& name = projection_name(architecture.names, projection);
    ProjectionPlan plan;
    plan.name = architecture.experts_module(layer, name);
    plan.target = LoraTarget::experts;
    plan.routed = projection;
    plan.out = down ? architecture.hidden : architecture.expert_intermediate;
    plan.in = down ? architecture.expert_intermediate : architecture.hidden;
    plan.held = share.experts;
    plan.sharded = down ? ShardedSide::in : ShardedSide::out;
    plan.shard = share.intermediate;
    for (index_t e = 0; e < architecture.experts; ++e) {
        plan.modules.push_back(architecture.expert_module(layer, e, name));
        plan.specs.push_back(lora.spec_of(LoraTarget::experts, plan.modules.back()));
    }
    return plan;
}

}  // namespace

BlockPlan plan_gated_mlp(const std::string& folder, const Architecture& architecture, index_t intermediate,
                         LoraTarget target, const LoraSettings& lora) {
    BlockPlan plan;
    for (const Projection p : ops::projections) {
        const bool down = p == Projection::down;
        plan.projections.push_back(plan_projection(folder + "." + projection_name(architecture.names, p),
                                                   down ? architecture.hidden : intermediate,
                                                   down ? intermediate : architecture.hidden, target, lora));
    }
    return plan;
}

BlockPlan plan_moe_layer(const Architecture& architecture, index_t layer, const LoraSettings& lora,
                         const GridPlace& place) {
    const std::string prefix = architecture.layer(layer);
    const TensorNames& names = architecture.names;
    BlockPlan plan;
    if (architecture.shared.intermediate > 0) {
        plan = plan_gated_mlp(prefix + names.shared, architecture, architecture.shared.intermediate, LoraTarget::shared,
                              lora);
    }
    const ExpertShare share(architecture, place);
    index_t largest_rank = 0;  // of all experts, on whatever rank: one product computes the adapters of several
    for (const Projection p : ops::projections) {
        plan.projections.push_back(plan_routed(architecture, layer, p, lora, share));
        for (const AdapterSpec& spec : plan.projections.back().specs) {
            largest_rank = std::max(largest_rank, spec.lora_rank);
        }
    }
    for (ProjectionPlan& projection : std::span(plan.projections).last(ops::projections.size())) {
        projection.lora_rank = largest_rank;
    }
    plan.tensors.push_back({prefix + names.router + ".weight", architecture.experts, architecture.hidden});
    if (architecture.router.has_correction_bias) {
        plan.tensors.push_back({prefix + names.router + ".e_score_correction_bias", 1, architecture.experts});
    }
    if (architecture.shared.gated) {
        plan.tensors.push_back({prefix + names.shared_gate + ".weight", 1, architecture.hidden});
    }
    return plan;
}

}  // namespace moesaic::model
