// What feed-forward networks consist of: gated networks, routers, routed and shared experts.
#pragma once

#include "model/layer_plan.hpp"
#include "ops/expert_backend.hpp"

#include <string>

namespace moesaic::model {

/// Name of a projection as it stands in checkpoints and adapters.
[[nodiscard]] const std::string& projection_name(const TensorNames& names, ops::Projection projection);

/// Gate, up and down of the network in `folder`, for example "model.layers.0.mlp".
[[nodiscard]] BlockPlan plan_gated_mlp(const std::string& folder, const Architecture& architecture,
                                       index_t intermediate, LoraTarget target, const DecoderSettings& settings);

/// A shared expert's projections, if there is one, then those of the routed experts; of the tensors the router is
/// first, then its correction bias and the gate of the shared expert where these are there.
[[nodiscard]] BlockPlan plan_moe_layer(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                                       const GridPlace& place);

/// What a rank holds of a layer's routed experts: some of them, and of each a slice of the intermediate dimension.
struct ExpertShare {
    core::Slice experts;
    core::Slice intermediate;

    ExpertShare(const Architecture& architecture, const GridPlace& place);
};

}  // namespace moesaic::model
