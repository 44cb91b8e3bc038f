#include "model/decoder_settings.hpp"

#include "core/options.hpp"

namespace moesaic::model {

void DecoderSettings::declare_chunks(core::OptionSet& set) {
    constexpr index_t most = 64;
    set.add_auto("parallel.chunks", chunks, most,
                 "parts in which rows travel to experts, which compute one while others travel; auto: up to 4 between "
                 "hosts, 1 within a host");
}

}  // namespace moesaic::model
