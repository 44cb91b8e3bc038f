// What feed-forward networks consist of: gated networks, routers, routed and shared experts.
#pragma once

#include "model/layer_plan.hpp"
#include "ops/expert_backend.hpp"

#include <span>
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

/// Gate, up and down of the routed experts of such a plan.
[[nodiscard]] std::span<const ProjectionPlan, 3> routed_projections(const BlockPlan& plan);

/// The experts of such a plan as their backend takes them, but for the format of weights, which depends on the type of
/// activations.
[[nodiscard]] ops::ExpertConfig config_of_experts(const Architecture& architecture, index_t layer,
                                                  const DecoderSettings& settings, const BlockPlan& plan);

/// The softmax of the logits is kept besides the scores: for the auxiliary loss, where the scores are something else.
[[nodiscard]] bool keeps_softmax(const Architecture& architecture, const DecoderSettings& settings);

}  // namespace moesaic::model
