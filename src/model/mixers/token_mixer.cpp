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

template <class T>
std::unique_ptr<Block<T>> make_token_mixer(const Architecture& architecture, index_t layer, BlockPlan plan,
                                           const LoraParameters<accumulator_t<T>>& parameters,
                                           Workspace<T>& workspace) {
    switch (architecture.mixers[static_cast<std::size_t>(layer)]) {
        case MixerKind::latent_attention:
            return std::make_unique<LatentAttention<T>>(architecture, layer, std::move(plan), parameters, workspace);
        case MixerKind::grouped_attention:
            break;
    }
    return std::make_unique<GroupedAttention<T>>(architecture, layer, std::move(plan), parameters, workspace);
}

#define MOESAIC_INSTANTIATE(T)                                                                      \
    template std::unique_ptr<Block<T>> make_token_mixer<T>(const Architecture&, index_t, BlockPlan, \
                                                           const LoraParameters<accumulator_t<T>>&, Workspace<T>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
