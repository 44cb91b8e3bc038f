#include "model/feed_forward/feed_forward.hpp"

#include "model/feed_forward/dense_feed_forward.hpp"
#include "model/feed_forward/moe_layer.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
std::unique_ptr<Block<T>> make_feed_forward(const Architecture& architecture, index_t layer, BlockPlan plan,
                                            const DecoderSettings& settings, const GridPlace& place,
                                            const LoraParameters<accumulator_t<T>>& parameters,
                                            Workspace<T>& workspace) {
    if (architecture.is_moe[static_cast<std::size_t>(layer)]) {
        return std::make_unique<MoeLayer<T>>(architecture, layer, std::move(plan), settings, place, parameters,
                                             workspace);
    }
    return std::make_unique<DenseFeedForward<T>>(std::move(plan), settings.activations, parameters, workspace);
}

#define MOESAIC_INSTANTIATE(T)                                                                        \
    template std::unique_ptr<Block<T>> make_feed_forward<T>(const Architecture&, index_t, BlockPlan,  \
                                                            const DecoderSettings&, const GridPlace&, \
                                                            const LoraParameters<accumulator_t<T>>&, Workspace<T>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
