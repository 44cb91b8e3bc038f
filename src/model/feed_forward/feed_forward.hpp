// Feed-forward networks: the blocks that work row by row. A layer has a dense one, or a mixture of experts.
#pragma once

#include "model/block.hpp"
#include "model/decoder_settings.hpp"

#include <memory>

namespace moesaic::model {

/// The network of a layer as the rank at `place` has it.
[[nodiscard]] BlockPlan plan_feed_forward(const Architecture& architecture, index_t layer,
                                          const DecoderSettings& settings, const GridPlace& place);

/// The network of a layer, from its plan.
template <class Scalar>
[[nodiscard]] std::unique_ptr<Block<Scalar>> make_feed_forward(const Architecture& architecture, index_t layer,
                                                               BlockPlan plan, const DecoderSettings& settings,
                                                               const LoraParameters<accumulator_t<Scalar>>& parameters,
                                                               Workspace<Scalar>& workspace);

}  // namespace moesaic::model
