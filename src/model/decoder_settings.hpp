// What a decoder is built for, besides its architecture.
#pragma once

#include "model/adapters/lora_settings.hpp"
#include "ops/expert_workspace.hpp"

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::model {

struct DecoderSettings {
    LoraSettings lora;
    ops::Activations activations = ops::Activations::retain;
    index_t max_tokens = 0;           ///< bound of the rows of all ranks in one pass
    bool keep_probabilities = false;  ///< of the routers, for the auxiliary loss
    index_t chunks = 0;               ///< in which rows travel to experts; 0: automatic_chunks

    void declare_chunks(core::OptionSet& set);
};

}  // namespace moesaic::model
