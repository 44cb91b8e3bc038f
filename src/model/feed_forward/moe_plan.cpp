#include "model/feed_forward/moe_plan.hpp"

#include "model/feed_forward/token_exchange.hpp"

#include <algorithm>
#include <span>

namespace moesaic::model {

using ops::Element;
using ops::Projection;
using ops::Rows;

const std::string& projection_name(const TensorNames& names, Projection projection) {
    return projection == Projection::gate ? names.gate : projection == Projection::up ? names.up : names.down;
}

std::span<const ProjectionPlan, 3> routed_projections(const BlockPlan& plan) {
    return std::span(plan.projections).last<ops::projections.size()>();
}

bool keeps_softmax(const Architecture& architecture, const DecoderSettings& settings) {
    return settings.keep_probabilities && architecture.router.scoring != ops::Scoring::softmax;
}

ops::ExpertConfig config_of_experts(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                                    const BlockPlan& plan) {
    const std::span<const ProjectionPlan, 3> routed = routed_projections(plan);
    const core::Slice held = routed.front().held;
    const core::Slice intermediate = routed.front().shard;
    ops::ExpertConfig config;
    config.layer = layer;
    config.experts = held.extent;
    config.experts_begin = held.begin;
    config.experts_of_layer = architecture.experts;
    config.experts_per_token = architecture.experts_per_token;
    config.hidden = architecture.hidden;
    config.intermediate = intermediate.extent;
    config.intermediate_begin = intermediate.begin;
    config.max_tokens = settings.max_tokens;
    config.activations = settings.activations;
    config.lora_rank = routed.front().lora_rank;
    config.skip_lora = config.lora_rank == 0;
    config.weight_format = routed.front().stored;
    config.lora_alpha = 1;  // every adapter has its own scale
    for (std::size_t p = 0; p < routed.size(); ++p) {
        for (index_t e = held.begin; e < held.end(); ++e) {
            config.lora_scales[p].push_back(routed[p].specs[static_cast<std::size_t>(e)].scale);
        }
    }
    return config;
}

namespace {

/// The intermediate dimension is the output of gate and up, and the input of down.
ProjectionPlan plan_routed(const Architecture& architecture, index_t layer, Projection projection,
                           const LoraSettings& lora, const GridPlace& place) {
    const bool down = projection == Projection::down;
    const std::string& name = projection_name(architecture.names, projection);
    ProjectionPlan plan;
    plan.name = architecture.experts_module(layer, name);
    plan.target = LoraTarget::experts;
    plan.routed = projection;
    plan.out = down ? architecture.hidden : architecture.expert_intermediate;
    plan.in = down ? architecture.expert_intermediate : architecture.hidden;
    plan.held = core::slice_of(architecture.experts, place.expert, place.expert_ranks);
    plan.sharded = down ? ShardedSide::in : ShardedSide::out;
    plan.shard = shard_of(architecture.expert_intermediate, place.tensor, place.tensor_ranks);
    for (index_t e = 0; e < architecture.experts; ++e) {
        plan.modules.push_back(architecture.expert_module(layer, e, name));
        plan.specs.push_back(lora.spec_of(LoraTarget::experts, plan.modules.back()));
    }
    return plan;
}

/// Of router, exchange and routed experts.
void add_buffers(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                 const GridPlace& place, BlockPlan& plan) {
    const bool has_dropout = settings.lora.dropout > 0;
    const bool has_shared = architecture.shared.intermediate > 0;
    const ops::ExpertConfig experts = config_of_experts(architecture, layer, settings, plan);
    ops::append(
        {{"scores", Rows::own, Element::sum, (keeps_softmax(architecture, settings) ? 2 : 1) * architecture.experts},
         {"expert_ids", Rows::own, Element::int32, architecture.experts_per_token},
         {"expert_weights", Rows::own, Element::sum, architecture.experts_per_token},
         {"shared_weights", Rows::own, Element::sum, architecture.shared.gated ? 1 : 0}},
        plan.state);
    ops::append(ops::plan_saved_experts(experts), plan.state);
    ops::append({{"router.grad_weights", Rows::own, Element::sum, architecture.experts_per_token, true},
                 {"router.grad_logits", Rows::own, Element::sum, architecture.experts, true},
                 {"block_input", Rows::own, Element::sum, architecture.hidden},
                 {"router.shared_output", Rows::own, Element::sum, has_shared ? architecture.hidden : 0},
                 {"router.shared_grad_weights", Rows::own, Element::sum, architecture.shared.gated ? 1 : 0, true}},
                plan.scratch);
    const bool is_alone = place.expert_ranks * place.tensor_ranks == 1 && settings.chunks <= 1;
    ops::append(ops::plan_expert_workspace(experts, has_dropout, is_alone), plan.scratch);
    plan_exchange(architecture, place, has_dropout, plan);
}

}  // namespace

BlockPlan plan_gated_mlp(const std::string& folder, const Architecture& architecture, index_t intermediate,
                         LoraTarget target, const DecoderSettings& settings) {
    BlockPlan plan;
    plan.kind = "gated network";
    for (const Projection p : ops::projections) {
        const bool down = p == Projection::down;
        plan.projections.push_back(plan_projection(folder + "." + projection_name(architecture.names, p),
                                                   down ? architecture.hidden : intermediate,
                                                   down ? intermediate : architecture.hidden, target, settings.lora));
    }
    const bool retain = settings.activations != ops::Activations::recompute;
    const index_t hidden = architecture.hidden;
    plan.state.push_back({"gate and up", Rows::own, Element::scalar, retain ? 2 * intermediate : 0});
    plan.scratch = {{"mlp.gate and up", Rows::own, Element::sum, 2 * intermediate},
                    {"mlp.exact_activated", Rows::own, Element::exact, intermediate},
                    {"mlp.activated", Rows::own, Element::scalar, intermediate},
                    {"mlp.input", Rows::own, Element::exact, retain ? 0 : hidden, true},
                    {"mlp.recomputed", Rows::own, Element::scalar, retain ? 0 : 2 * intermediate, true},
                    {"mlp.gradients", Rows::own, Element::scalar, 2 * intermediate, true},
                    {"mlp.grad_activated", Rows::own, Element::sum, intermediate, true},
                    {"mlp.grad_output", Rows::own, Element::narrow, hidden, true}};
    const TensorNames& names = architecture.names;
    plan.add_linears({names.gate, names.up}, settings.lora);
    plan.add_linears({names.down}, settings.lora);
    return plan;
}

BlockPlan plan_moe_layer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                         const GridPlace& place) {
    const std::string prefix = architecture.layer(layer);
    const TensorNames& names = architecture.names;
    BlockPlan plan;
    if (architecture.shared.intermediate > 0) {
        plan = plan_gated_mlp(prefix + names.shared, architecture, architecture.shared.intermediate, LoraTarget::shared,
                              settings);
    }
    plan.kind = "mixture of experts";
    index_t largest_rank = 0;  // of all experts, on whatever rank: one product computes the adapters of several
    for (const Projection p : ops::projections) {
        plan.projections.push_back(plan_routed(architecture, layer, p, settings.lora, place));
        for (const AdapterSpec& spec : plan.projections.back().specs) {
            largest_rank = std::max(largest_rank, spec.lora_rank);
        }
    }
    for (ProjectionPlan& projection : std::span(plan.projections).last(ops::projections.size())) {
        projection.lora_rank = largest_rank;
    }
    plan.tensors.push_back(
        {prefix + names.router + ".weight", TensorRole::matrix, architecture.experts, architecture.hidden});
    if (architecture.router.has_correction_bias) {
        plan.tensors.push_back(
            {prefix + names.router + ".e_score_correction_bias", TensorRole::offset, 1, architecture.experts});
    }
    if (architecture.shared.gated) {
        plan.tensors.push_back({prefix + names.shared_gate + ".weight", TensorRole::matrix, 1, architecture.hidden});
    }
    add_buffers(architecture, layer, settings, place, plan);
    return plan;
}

}  // namespace moesaic::model
