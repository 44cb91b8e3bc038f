#include "model/layer_plan.hpp"

#include "core/error.hpp"
#include "model/feed_forward/moe_plan.hpp"
#include "model/mixers/token_mixer.hpp"

#include <algorithm>

namespace moesaic::model {

bool BlockPlan::is_trainable() const noexcept {
    return std::any_of(projections.begin(), projections.end(),
                       [](const ProjectionPlan& projection) { return projection.lora_rank > 0; });
}

ProjectionPlan plan_projection(const std::string& module, index_t out, index_t in, LoraTarget target,
                               const LoraSettings& lora, bool has_bias) {
    ProjectionPlan plan;
    plan.name = module;
    plan.modules = {module};
    plan.specs = {lora.spec_of(target, module)};
    plan.lora_rank = plan.specs.front().lora_rank;
    plan.target = target;
    plan.out = out;
    plan.in = in;
    plan.has_bias = has_bias;
    return plan;
}

std::vector<LayerPlan> plan_layers(const Architecture& architecture, const LoraSettings& lora, const GridPlace& place) {
    std::vector<LayerPlan> layers;
    for (index_t l = 0; l < architecture.layers; ++l) {
        LayerPlan& layer = layers.emplace_back();
        layer.mixer = plan_token_mixer(architecture, l, lora);
        layer.mixer.norm = {architecture.layer(l) + "input_layernorm.weight", 1, architecture.hidden};
        layer.feed_forward = architecture.is_moe[static_cast<std::size_t>(l)]
                                 ? plan_moe_layer(architecture, l, lora, place)
                                 : plan_gated_mlp(architecture.layer(l) + architecture.names.dense, architecture,
                                                  architecture.dense_intermediate, LoraTarget::dense, lora);
        layer.feed_forward.norm = {architecture.layer(l) + "post_attention_layernorm.weight", 1, architecture.hidden};
        for (BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (ProjectionPlan& projection : block->projections) {
                projection.stored = projection.is_routed() ? architecture.stored.experts : architecture.stored.others;
            }
        }
    }
    return layers;
}

}  // namespace moesaic::model
