// Loss and exact answers of a model on a data set.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "mpi/process_grid.hpp"
#include "train/dataset.hpp"

#include <functional>
#include <limits>
#include <vector>

namespace moesaic::train {

/// What became of one sequence.
struct SequenceScore {
    double loss_sum = 0;  ///< of negative log-probabilities
    index_t target_tokens = 0;
    index_t first_wrong = -1;  ///< position of the first target that is not the most likely token; -1: none

    /// All targets are the most likely tokens (teacher forcing).
    [[nodiscard]] bool is_exact() const { return target_tokens > 0 && first_wrong < 0; }
};

/// Sums over all sequences of a data set.
struct Evaluation {
    double loss_sum = 0;  ///< of negative log-probabilities
    index_t target_tokens = 0;
    index_t sequences = 0;  ///< with at least one target
    index_t exact_sequences = 0;
    bool complete = true;               ///< false if it was ended before its last batch
    std::vector<double> batch_losses;   ///< per target token, of each batch in file order
    std::vector<SequenceScore> scores;  ///< of every sequence, if they were asked for

    [[nodiscard]] double loss() const { return target_tokens > 0 ? loss_sum / static_cast<double>(target_tokens) : 0; }
    [[nodiscard]] double exact_percent() const {
        return sequences > 0 ? 100.0 * static_cast<double>(exact_sequences) / static_cast<double>(sequences) : 0;
    }
};

/// The evaluations of a run so far. The one before the first step does not count as the best: nothing was trained yet.
struct EvaluationHistory {
    index_t last_step = -1;
    index_t best_step = 0;  ///< 0: none yet
    double best_loss = std::numeric_limits<double>::infinity();
    index_t without_gain = 0;  ///< evaluations since the best

    void add(index_t step, double loss);
};

struct EvaluationSettings {
    index_t batch_size = 8;  ///< sequences over all ranks
    bool scores = false;     ///< also of every sequence
    /// Asked on every rank after each batch, with the sequences that are done. False on any rank ends the evaluation.
    std::function<bool(index_t done)> goes_on = [](index_t) { return true; };
};

/// Collective. Loss and exact matches of a data set.
template <class Scalar>
[[nodiscard]] Evaluation evaluate(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels,
                                  const mpi::ProcessGrid& grid, const Dataset& data,
                                  const EvaluationSettings& settings);

/// Collective. Log-probabilities of the targets of one sequence, on all ranks.
template <class Scalar>
[[nodiscard]] std::vector<double> target_log_probabilities(model::Decoder<Scalar>& decoder,
                                                           const kernels::KernelSet& kernels,
                                                           const mpi::ProcessGrid& grid, const Dataset& data,
                                                           index_t sequence);

}  // namespace moesaic::train
