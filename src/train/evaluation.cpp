#include "train/evaluation.hpp"

#include "core/trace.hpp"
#include "ops/loss.hpp"
#include "train/batches.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace moesaic::train {

using core::bf16;
using core::trace::Scope;
using ops::TargetResult;
using ops::TokenBatch;

namespace {

/// Adds the targets of a pass to the scores of their sequences, which are those of the whole data set.
void add_scores(const TokenBatch& pass, std::span<const ops::Target> targets, std::span<const TargetResult> results,
                std::span<SequenceScore> scores) {
    for (std::size_t i = 0; i < targets.size(); ++i) {
        const auto sequence = static_cast<std::size_t>(targets[i].sequence);
        SequenceScore& score = scores[static_cast<std::size_t>(pass.sequence_ids[sequence])];
        score.loss_sum -= results[i].log_probability;
        ++score.target_tokens;
        if (!results[i].is_most_likely && score.first_wrong < 0) {
            score.first_wrong = targets[i].row + 1 - pass.offsets[sequence];
        }
    }
}

/// Scores of every sequence on all ranks, given those of each rank's own sequences.
void share_scores(const mpi::Communicator& world, std::span<SequenceScore> scores) {
    std::vector<double> losses;
    std::vector<index_t> counts;
    for (const SequenceScore& score : scores) {
        losses.push_back(score.loss_sum);
        counts.insert(counts.end(), {score.target_tokens, score.first_wrong + 1});
    }
    world.sum(std::span<double>(losses));
    world.sum(std::span<index_t>(counts));
    for (std::size_t s = 0; s < scores.size(); ++s) {
        scores[s] = {losses[s], counts[2 * s], counts[2 * s + 1] - 1};
    }
}

}  // namespace

void EvaluationHistory::add(index_t step, double loss) {
    last_step = step;
    if (step == 0) {
        return;
    }
    if (loss < best_loss) {
        best_step = step;
        best_loss = loss;
        without_gain = 0;
    } else {
        ++without_gain;
    }
}

template <class Scalar>
Evaluation evaluate(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid,
                    const Dataset& data, const EvaluationSettings& settings) {
    const Scope scope(core::scopes::evaluate);
    Evaluation total;
    model::Tape<Scalar> tape;
    ops::LossScratch<Scalar> scratch;
    std::vector<index_t> all(static_cast<std::size_t>(data.sequences()));
    std::iota(all.begin(), all.end(), index_t{0});
    std::vector<SequenceScore> mine(all.size());
    const Dealing dealing = dealing_for(decoder.architecture(), grid.shape());
    for (std::size_t begin = 0; begin < all.size() && total.complete;) {
        const auto sequences =
            std::span(all).subspan(begin, std::min(static_cast<std::size_t>(settings.batch_size), all.size() - begin));
        begin += sequences.size();
        const StepBatches batch = share_of(data, sequences, 0, grid.world().rank(), dealing);
        const TokenBatch& pass = batch.passes.front();
        const auto hidden = decoder.forward(pass, tape, false);
        const auto targets = ops::targets_of(pass);
        const auto results = ops::cross_entropy<Scalar>(kernels, hidden, decoder.head(), targets, 0, {}, scratch);
        add_scores(pass, targets, results, mine);

        double loss_sum = 0;
        for (const TargetResult& result : results) {
            loss_sum -= result.log_probability;
        }
        index_t scored = 0;
        index_t exact = 0;
        for (const index_t sequence : pass.sequence_ids) {
            const SequenceScore& score = mine[static_cast<std::size_t>(sequence)];
            scored += score.target_tokens > 0 ? 1 : 0;
            exact += score.is_exact() ? 1 : 0;
        }
        const double loss = grid.world().sum(loss_sum);
        std::array<index_t, 4> counts = {static_cast<index_t>(targets.size()), scored, exact,
                                         settings.goes_on(static_cast<index_t>(begin)) ? 0 : 1};
        grid.world().sum(std::span<index_t>(counts));
        total.loss_sum += loss;
        total.target_tokens += counts[0];
        total.sequences += counts[1];
        total.exact_sequences += counts[2];
        total.batch_losses.push_back(counts[0] > 0 ? loss / static_cast<double>(counts[0]) : 0);
        total.complete = counts[3] == 0 || begin == all.size();
    }
    if (settings.scores) {
        share_scores(grid.world(), mine);
        total.scores = std::move(mine);
    }
    return total;
}

template <class Scalar>
std::vector<double> target_log_probabilities(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels,
                                             const mpi::ProcessGrid& grid, const Dataset& data, index_t sequence) {
    model::Tape<Scalar> tape;
    ops::LossScratch<Scalar> scratch;
    const StepBatches batch =
        share_of(data, {&sequence, 1}, 0, grid.world().rank(), dealing_for(decoder.architecture(), grid.shape()));
    const TokenBatch& pass = batch.passes.front();
    const auto hidden = decoder.forward(pass, tape, false);
    const auto targets = ops::targets_of(pass);
    // One rank has the sequence; the others contribute zeros.
    std::vector<double> log_probabilities(static_cast<std::size_t>(batch.target_tokens), 0.0);
    const auto results = ops::cross_entropy<Scalar>(kernels, hidden, decoder.head(), targets, 0, {}, scratch);
    std::transform(results.begin(), results.end(), log_probabilities.begin(),
                   [](const TargetResult& result) { return result.log_probability; });
    grid.world().sum(std::span<double>(log_probabilities));
    return log_probabilities;
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                   \
    template Evaluation evaluate<Scalar>(model::Decoder<Scalar>&, const kernels::KernelSet&, const mpi::ProcessGrid&, \
                                         const Dataset&, const EvaluationSettings&);                                  \
    template std::vector<double> target_log_probabilities<Scalar>(model::Decoder<Scalar>&, const kernels::KernelSet&, \
                                                                  const mpi::ProcessGrid&, const Dataset&, index_t);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::train
