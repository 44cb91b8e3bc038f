#include "model/feed_forward/feed_forward.hpp"

#include "model/feed_forward/dense_feed_forward.hpp"
#include "model/feed_forward/moe_layer.hpp"
#include "model/feed_forward/moe_plan.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

BlockPlan plan_feed_forward(const Architecture& architecture, index_t layer, const DecoderSettings& settings,
                            const GridPlace& place) {
    if (architecture.is_moe[static_cast<std::size_t>(layer)]) {
        return plan_moe_layer(architecture, layer, settings, place);
    }
    return plan_gated_mlp(architecture.layer(layer) + architecture.names.dense, architecture,
                          architecture.dense_intermediate, LoraTarget::dense, settings);
}

template <class Scalar>
std::unique_ptr<Block<Scalar>> make_feed_forward(const Architecture& architecture, index_t layer, BlockPlan plan,
                                                 const DecoderSettings& settings,
                                                 const LoraParameters<accumulator_t<Scalar>>& parameters,
                                                 Workspace<Scalar>& workspace) {
    if (architecture.is_moe[static_cast<std::size_t>(layer)]) {
        return std::make_unique<MoeLayer<Scalar>>(architecture, layer, std::move(plan), settings, parameters,
                                                  workspace);
    }
    return std::make_unique<DenseFeedForward<Scalar>>(std::move(plan), settings.activations, parameters, workspace);
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                    \
    template std::unique_ptr<Block<Scalar>> make_feed_forward<Scalar>(                                                 \
        const Architecture&, index_t, BlockPlan, const DecoderSettings&, const LoraParameters<accumulator_t<Scalar>>&, \
        Workspace<Scalar>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
