#include "model/layer_plan.hpp"

#include "core/error.hpp"
#include "model/feed_forward/feed_forward.hpp"
#include "model/mixers/token_mixer.hpp"
#include "ops/lora_linear.hpp"

#include <algorithm>

namespace moesaic::model {

core::Slice blocks_slice(index_t size, index_t index, index_t parts) {
    const core::Slice slice = core::slice_of(ops::blocks_of(size), index, parts);
    const index_t begin = slice.begin * ops::kernel_block;
    return {begin, std::min(slice.end() * ops::kernel_block, size) - begin};
}

core::Slice shard_of(index_t size, index_t rank, index_t ranks) {
    return ops::blocks_of(size) < ranks ? core::slice_of(size, rank, ranks) : blocks_slice(size, rank, ranks);
}

bool BlockPlan::is_trainable() const noexcept {
    return std::any_of(projections.begin(), projections.end(),
                       [](const ProjectionPlan& projection) { return projection.lora_rank > 0; });
}

std::size_t BlockPlan::index_of(std::string_view projection) const {
    const auto found = std::find_if(projections.begin(), projections.end(), [&](const ProjectionPlan& each) {
        const std::string_view name = each.name;
        return name.substr(name.rfind('.') + 1) == projection;
    });
    core::require(found != projections.end(), core::ExitCode::runtime_failure,
                  "{}: no projection {} is planned (its plan and its class disagree); correct the block", kind,
                  projection);
    return static_cast<std::size_t>(found - projections.begin());
}

void BlockPlan::add_linears(std::initializer_list<std::string_view> names, const LoraSettings& lora) {
    std::vector<ops::LinearShape> shapes;
    for (const std::string_view name : names) {
        const ProjectionPlan& projection = projections[index_of(name)];
        shapes.push_back({.out = projection.out, .in = projection.in, .lora_rank = projection.lora_rank});
    }
    ops::plan_linears(shapes, lora.dropout > 0, scratch);
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

std::vector<LayerPlan> plan_layers(const Architecture& architecture, const DecoderSettings& settings,
                                   const GridPlace& place) {
    std::vector<LayerPlan> layers;
    for (index_t l = 0; l < architecture.layers; ++l) {
        LayerPlan& layer = layers.emplace_back();
        layer.mixer = plan_token_mixer(architecture, l, settings.lora);
        layer.mixer.norm = {architecture.layer(l) + "input_layernorm.weight", TensorRole::scale, 1,
                            architecture.hidden};
        layer.feed_forward = plan_feed_forward(architecture, l, settings, place);
        layer.feed_forward.norm = {architecture.layer(l) + "post_attention_layernorm.weight", TensorRole::scale, 1,
                                   architecture.hidden};
        for (BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (ProjectionPlan& projection : block->projections) {
                projection.stored =
                    projection.is_routed() ? architecture.stored.experts : architecture.stored.projections;
            }
        }
    }
    return layers;
}

}  // namespace moesaic::model
