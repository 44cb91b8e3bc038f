// How much memory a run will need on each rank, computed from sizes alone.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/decoder_settings.hpp"
#include "model/families/architecture.hpp"
#include "model/layer_plan.hpp"
#include "model/weights/shared_weights.hpp"
#include "mpi/process_grid.hpp"
#include "ops/weights/weight_format.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::train {

using core::index_t;

/// A pass of all ranks together.
struct PassSize {
    index_t tokens = 0;
    index_t sequences = 0;  ///< of about equal lengths, each on one rank; 0: tokens are spread evenly over the ranks
};

/// What the memory is for, besides the decoder's settings.
struct MemoryRequest {
    PassSize pass = {};
    index_t data_ranks = 1;
    index_t expert_ranks = 1;
    index_t tensor_ranks = 1;
    index_t host_ranks = 1;    ///< of the host that has fewest
    index_t threads = 1;       ///< of a rank
    index_t scalar_bytes = 0;  ///< of weights and activations
    index_t packed_bytes = 0;  ///< of an element of the operands that kernels pack
    bool in_parts = false;     ///< operands outside of routed experts have two parts, as of KernelSet::operand_parts
    bool training = true;      ///< with backward passes and an optimizer
    bool saves = true;         ///< what is trained, into checkpoints and adapters
    model::WeightSharing share = model::WeightSharing::none;

    void set_grid(const mpi::GridShape& grid) {
        data_ranks = grid.data;
        expert_ranks = grid.expert;
        tensor_ranks = grid.tensor;
    }
};

/// Bytes of one rank, by purpose; of weights that the ranks of a host share, its part. Tokens are taken to be spread
/// evenly over experts in buffers.
struct MemoryPlan {
    struct Item {
        std::string_view purpose;
        double bytes = 0;
        std::string_view format = {};  ///< of frozen weights; those of other purposes have none

        /// "experts, INT4".
        [[nodiscard]] std::string name() const;
    };
    std::vector<Item> items;
    double shared = 0;              ///< bytes of all weights that the ranks of a host share
    double parameters = 0;          ///< of the model that the rank holds, or shares, without adapters
    double adapter_parameters = 0;  ///< of adapters, whose smaller ones are padded

    [[nodiscard]] double total() const;
    /// Bytes of one purpose; 0 if there is none of this name.
    [[nodiscard]] double of(std::string_view purpose) const;
    /// Bytes of all frozen weights.
    [[nodiscard]] double frozen_weights() const;
};

/// Plans for one model, one grid and any number of tokens: walks the layers of the model, which takes most of the time,
/// only once.
class MemoryPlanner {
public:
    /// `request.pass` and `settings.max_tokens` do not matter.
    MemoryPlanner(const model::Architecture& architecture, const model::DecoderSettings& settings,
                  const MemoryRequest& request);

    /// For passes of this size. Experts are in the format of the architecture, unless another one is given.
    [[nodiscard]] MemoryPlan plan(const PassSize& pass, std::optional<ops::WeightFormat> experts = {}) const;

private:
    void add_weights(std::optional<ops::WeightFormat> experts, MemoryPlan& plan) const;
    void add_adapters(MemoryPlan& plan) const;
    void add_buffers(const PassSize& pass, MemoryPlan& plan) const;

    model::Architecture architecture_;
    MemoryRequest request_;
    ops::Activations activations_;
    std::vector<model::LayerPlan> layers_;  ///< as the rank holds them that has most
    double elements_to_save_;               ///< that are put together at a time
};

/// The plan for `request.pass`.
[[nodiscard]] MemoryPlan plan_memory(const model::Architecture& architecture, const model::DecoderSettings& settings,
                                     const MemoryRequest& request);

/// MemoryRequest::packed_bytes of kernels for activations of so many bytes.
[[nodiscard]] index_t packed_bytes(const kernels::KernelSet& kernels, index_t scalar_bytes);

}  // namespace moesaic::train
