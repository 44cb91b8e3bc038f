// How much memory a run will need on each rank, computed from sizes alone.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/decoder_settings.hpp"
#include "model/families/architecture.hpp"

#include <string_view>
#include <vector>

namespace moesaic::train {

using core::index_t;

/// What the memory is for, besides the decoder's settings.
struct MemoryRequest {
    index_t tokens = 0;  ///< of all ranks together in one pass
    index_t data_ranks = 1;
    index_t expert_ranks = 1;
    index_t tensor_ranks = 1;
    index_t threads = 1;       ///< of a rank
    index_t scalar_bytes = 0;  ///< of weights and activations
    index_t packed_bytes = 0;  ///< of an element of the operands that kernels pack
    bool training = true;      ///< with backward passes and an optimizer
};

/// Bytes of one rank, by purpose. Tokens are taken to be spread evenly over ranks and, in buffers, over experts.
struct MemoryPlan {
    struct Item {
        std::string_view purpose;
        double bytes = 0;
    };
    std::vector<Item> items;

    [[nodiscard]] double total() const;
    /// Bytes of one purpose; 0 if there is none of this name.
    [[nodiscard]] double of(std::string_view purpose) const;
};

[[nodiscard]] MemoryPlan plan_memory(const model::Architecture& architecture, const model::DecoderSettings& settings,
                                     const MemoryRequest& request);

/// MemoryRequest::packed_bytes of kernels for activations of so many bytes.
[[nodiscard]] index_t packed_bytes(const kernels::KernelSet& kernels, index_t scalar_bytes);

}  // namespace moesaic::train
