#include "model/mixers/token_mixer.hpp"

#include "model/mixers/grouped_attention.hpp"
#include "model/mixers/latent_attention.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

BlockPlan plan_token_mixer(const Architecture& architecture, index_t layer, const LoraSettings& lora) {
    switch (architecture.mixers[static_cast<std::size_t>(layer)]) {
        case MixerKind::latent_attention:
            return plan_latent_attention(architecture, layer, lora);
        case MixerKind::grouped_attention:
            break;
    }
    return plan_grouped_attention(architecture, layer, lora);
}

template <class Scalar>
std::unique_ptr<Block<Scalar>> make_token_mixer(const Architecture& architecture, index_t layer, BlockPlan plan,
                                                const LoraParameters<accumulator_t<Scalar>>& parameters,
                                                Workspace<Scalar>& workspace) {
    switch (architecture.mixers[static_cast<std::size_t>(layer)]) {
        case MixerKind::latent_attention:
            return std::make_unique<LatentAttention<Scalar>>(architecture, layer, std::move(plan), parameters,
                                                             workspace);
        case MixerKind::grouped_attention:
            break;
    }
    return std::make_unique<GroupedAttention<Scalar>>(architecture, layer, std::move(plan), parameters, workspace);
}

#define MOESAIC_INSTANTIATE(Scalar)                                   \
    template std::unique_ptr<Block<Scalar>> make_token_mixer<Scalar>( \
        const Architecture&, index_t, BlockPlan, const LoraParameters<accumulator_t<Scalar>>&, Workspace<Scalar>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
