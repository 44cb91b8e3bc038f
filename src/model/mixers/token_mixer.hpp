// Token mixers: the blocks through which the rows of a sequence see each other. Each layer has one, of the kind that
// its architecture says.
#pragma once

#include "model/block.hpp"

#include <memory>

namespace moesaic::model {

/// The projections of a layer's mixer with their adapters.
[[nodiscard]] BlockPlan plan_token_mixer(const Architecture& architecture, index_t layer, const LoraSettings& lora);

/// The mixer of a layer, from its plan.
template <class Scalar>
[[nodiscard]] std::unique_ptr<Block<Scalar>> make_token_mixer(const Architecture& architecture, index_t layer,
                                                              BlockPlan plan,
                                                              const LoraParameters<accumulator_t<Scalar>>& parameters,
                                                              Workspace<Scalar>& workspace);

}  // namespace moesaic::model
