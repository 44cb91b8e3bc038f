// Loss and exact answers of a model on a data set.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "mpi/process_grid.hpp"
#include "train/dataset.hpp"

#include <vector>

namespace moesaic::train {

/// Sums over all sequences of a data set.
struct Evaluation {
    double loss_sum = 0;  ///< of negative log-probabilities
    index_t target_tokens = 0;
    index_t sequences = 0;             ///< with at least one target
    index_t exact_sequences = 0;       ///< all of whose targets are the most likely tokens (teacher forcing)
    std::vector<double> batch_losses;  ///< per target token, of each batch in file order

    [[nodiscard]] double loss() const { return target_tokens > 0 ? loss_sum / static_cast<double>(target_tokens) : 0; }
    [[nodiscard]] double exact_percent() const {
        return sequences > 0 ? 100.0 * static_cast<double>(exact_sequences) / static_cast<double>(sequences) : 0;
    }
};

/// Collective. Loss and exact matches of a data set, in batches of `batch_size` sequences over all ranks.
template <class Scalar>
[[nodiscard]] Evaluation evaluate(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels,
                                  const mpi::ProcessGrid& grid, const Dataset& data, index_t batch_size);

/// Collective. Log-probabilities of the targets of one sequence, on all ranks.
template <class Scalar>
[[nodiscard]] std::vector<double> target_log_probabilities(model::Decoder<Scalar>& decoder,
                                                           const kernels::KernelSet& kernels,
                                                           const mpi::ProcessGrid& grid, const Dataset& data,
                                                           index_t sequence);

}  // namespace moesaic::train
