#include "train/evaluation.hpp"

#include "core/trace.hpp"
#include "ops/loss.hpp"
#include "train/batches.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace moesaic::train {

using core::bf16;
using core::trace::Scope;
using ops::TargetResult;
using ops::TokenBatch;

namespace {

/// Sums of one rank over one batch.
struct BatchSums {
    double loss = 0;
    index_t target_tokens = 0;
    index_t sequences = 0;
    index_t exact_sequences = 0;
};

BatchSums sum_up(std::span<const ops::Target> targets, std::span<const TargetResult> results) {
    BatchSums sums;
    bool exact = false;
    for (std::size_t i = 0; i < targets.size(); ++i) {
        const bool first = i == 0 || targets[i].sequence != targets[i - 1].sequence;
        const bool last = i + 1 == targets.size() || targets[i].sequence != targets[i + 1].sequence;
        exact = (first || exact) && results[i].is_most_likely;
        sums.loss -= results[i].log_probability;
        sums.sequences += last ? 1 : 0;
        sums.exact_sequences += last && exact ? 1 : 0;
    }
    sums.target_tokens = static_cast<index_t>(targets.size());
    return sums;
}

}  // namespace

template <class Scalar>
Evaluation evaluate(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid,
                    const Dataset& data, index_t batch_size) {
    const Scope scope(core::scopes::evaluate);
    Evaluation total;
    model::Tape<Scalar> tape;
    ops::LossScratch<Scalar> scratch;
    std::vector<index_t> all(static_cast<std::size_t>(data.sequences()));
    std::iota(all.begin(), all.end(), index_t{0});
    for (std::size_t begin = 0; begin < all.size(); begin += static_cast<std::size_t>(batch_size)) {
        const auto sequences =
            std::span(all).subspan(begin, std::min(static_cast<std::size_t>(batch_size), all.size() - begin));
        const StepBatches batch = share_of(data, sequences, 0, grid.world().rank(), grid.world().size());
        const TokenBatch& pass = batch.passes.front();
        const auto hidden = decoder.forward(pass, tape, false);
        const auto targets = ops::targets_of(pass);
        const auto results = ops::cross_entropy<Scalar>(kernels, hidden, decoder.head(), targets, 0, {}, scratch);
        const BatchSums mine = sum_up(targets, results);
        const double loss = grid.world().sum(mine.loss);
        std::array<index_t, 3> counts = {mine.target_tokens, mine.sequences, mine.exact_sequences};
        grid.world().sum(std::span<index_t>(counts));
        total.loss_sum += loss;
        total.target_tokens += counts[0];
        total.sequences += counts[1];
        total.exact_sequences += counts[2];
        total.batch_losses.push_back(counts[0] > 0 ? loss / static_cast<double>(counts[0]) : 0);
    }
    return total;
}

template <class Scalar>
std::vector<double> target_log_probabilities(model::Decoder<Scalar>& decoder, const kernels::KernelSet& kernels,
                                             const mpi::ProcessGrid& grid, const Dataset& data, index_t sequence) {
    model::Tape<Scalar> tape;
    ops::LossScratch<Scalar> scratch;
    const StepBatches batch = share_of(data, {&sequence, 1}, 0, grid.world().rank(), grid.world().size());
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
                                         const Dataset&, index_t);                                                    \
    template std::vector<double> target_log_probabilities<Scalar>(model::Decoder<Scalar>&, const kernels::KernelSet&, \
                                                                  const mpi::ProcessGrid&, const Dataset&, index_t);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::train
