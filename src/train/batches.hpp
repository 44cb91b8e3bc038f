// Which sequences belong to an optimizer step, and which rank works on which of them.
#pragma once

#include "core/matrix.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"
#include "ops/token_batch.hpp"
#include "train/dataset.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::train {

struct BatchSettings {
    index_t batch_size = 8;   ///< sequences per optimizer step, all ranks together
    index_t micro_batch = 0;  ///< sequences per rank and pass; 0: all of a step, or as many as memory holds
    bool shuffle = true;      ///< a new order every epoch; otherwise file order that wraps around

    void declare(core::OptionSet& set);
    void declare_batch_size(core::OptionSet& set);
    void declare_micro_batch(core::OptionSet& set, const std::string& key);
    void declare_order(core::OptionSet& set);
    /// The last step of a shuffled epoch has the sequences that are left.
    [[nodiscard]] index_t steps_per_epoch(index_t epoch_size) const {
        return (epoch_size + batch_size - 1) / batch_size;
    }
    /// The most sequences of an optimizer step that one of `ranks` ranks can get if they are spread evenly.
    [[nodiscard]] index_t most_of_rank(index_t ranks) const { return (batch_size + ranks - 1) / ranks; }
    /// The same with another micro_batch.
    [[nodiscard]] BatchSettings with(index_t other_micro_batch) const {
        BatchSettings other = *this;
        other.micro_batch = other_micro_batch;
        return other;
    }
    /// Sequences of `ranks` ranks together in one pass.
    [[nodiscard]] index_t per_pass(index_t ranks) const {
        return micro_batch > 0 ? std::min(batch_size, micro_batch * ranks) : batch_size;
    }
};

/// The most tokens that `ranks` ranks together can meet in one pass of training or evaluation.
[[nodiscard]] index_t largest_pass(const TrainingData& data, const BatchSettings& settings, index_t ranks);

/// One rank's share of an optimizer step. All ranks have the same number of passes; some may be empty.
struct StepBatches {
    std::vector<ops::TokenBatch> passes;
    index_t tokens = 0;         ///< of all ranks
    index_t target_tokens = 0;  ///< of all ranks
};

/// How sequences are dealt to ranks.
struct Dealing {
    index_t ranks;
    index_t replica_ranks;
    std::function<double(index_t length, index_t target_tokens)> cost;
};

/// By the operations that a rank of the grid computes alone for a sequence of its own.
[[nodiscard]] Dealing dealing_for(const model::Architecture& architecture, const mpi::GridShape& grid);

/// Every step is computed from its number alone, so that a resumed run continues with the same data.
class Batches {
public:
    /// `seed` decides the order of shuffled epochs.
    Batches(const Dataset& data, const BatchSettings& settings, std::uint64_t seed, int rank, Dealing dealing);

    /// `step` counts from 0.
    [[nodiscard]] StepBatches at(index_t step);

private:
    [[nodiscard]] std::vector<index_t> sequences_of(index_t step);

    const Dataset& data_;
    BatchSettings settings_;
    std::uint64_t seed_;
    int rank_;
    Dealing dealing_;
    std::vector<index_t> order_;  ///< of the epoch below
    index_t epoch_ = -1;
};

/// Spreads `sequences` over ranks, so that costs are balanced between them, and where they are equal, between replicas.
/// Each rank gets the costliest ones first: passes of a step that ranks compute at the same time are alike.
[[nodiscard]] std::vector<std::vector<index_t>> spread(const Dataset& data, std::span<const index_t> sequences,
                                                       const Dealing& dealing);

/// The share of `rank` of `sequences`, in passes of at most `micro_batch` sequences per rank (0: one pass).
[[nodiscard]] StepBatches share_of(const Dataset& data, std::span<const index_t> sequences, index_t micro_batch,
                                   int rank, const Dealing& dealing);

}  // namespace moesaic::train
