#include "train/batches.hpp"

#include "core/options.hpp"
#include "core/random.hpp"
#include "train/step_work.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

namespace moesaic::train {
namespace {

/// With sequences of at most as many tokens, so that their product is an integer of 64 bits.
constexpr index_t most_sequences = std::numeric_limits<std::int32_t>::max();

}  // namespace

void BatchSettings::declare(core::OptionSet& set) {
    declare_batch_size(set);
    declare_micro_batch(set, "train.micro_batch");
}

void BatchSettings::declare_micro_batch(core::OptionSet& set, const std::string& key) {
    set.add_auto(key, micro_batch, most_sequences,
                 "sequences per rank and pass; auto: as many of a step as memory holds")
        .known_as({"gradient_accumulation_steps", "grad_accum", "gradient_accumulation", "micro_batch_size"},
                  "it sets the sequences of a pass; the passes of a step add up their gradients, whatever "
                  "train.batch_size is");
}

void BatchSettings::declare_batch_size(core::OptionSet& set) {
    set.add("train.batch_size", batch_size, "sequences per optimizer step, all ranks together",
            core::integer_within(1, most_sequences))
        .known_as({"per_device_train_batch_size", "per_device_eval_batch_size", "per_gpu_train_batch_size",
                   "train_batch_size", "global_batch_size"},
                  "it counts the sequences of all ranks in an optimizer step");
}

void BatchSettings::declare_order(core::OptionSet& set) {
    set.add("data.shuffle", shuffle,
            "a new order of sequences every epoch; otherwise file order, wrapping around at the end");
}

index_t largest_pass(const TrainingData& data, const BatchSettings& settings, index_t ranks) {
    const index_t sequences = settings.per_pass(ranks);
    return std::max(data.train.largest_sum(sequences), data.eval ? data.eval->largest_sum(sequences) : 0);
}

Dealing dealing_for(const model::Architecture& architecture, const mpi::GridShape& grid) {
    const index_t replica_ranks = grid.expert * grid.tensor;
    const auto cost = [work = ModelWork(architecture), is_alone = replica_ranks == 1](index_t length, index_t targets) {
        return work.operations_of_sequence(static_cast<double>(length), static_cast<double>(targets), is_alone);
    };
    return {grid.ranks(), replica_ranks, cost};
}

Batches::Batches(const Dataset& data, const BatchSettings& settings, std::uint64_t seed, int rank, Dealing dealing)
    : data_(data), settings_(settings), seed_(seed), rank_(rank), dealing_(std::move(dealing)) {}

std::vector<index_t> Batches::sequences_of(index_t step) {
    std::vector<index_t> chosen;
    const index_t count = data_.epoch_size();
    if (!settings_.shuffle) {
        for (index_t i = 0; i < settings_.batch_size; ++i) {
            chosen.push_back(data_.epoch_sequence((step * settings_.batch_size + i) % count));
        }
        return chosen;
    }
    const index_t steps_per_epoch = settings_.steps_per_epoch(count);
    const index_t epoch = step / steps_per_epoch;
    if (epoch != epoch_) {
        epoch_ = epoch;
        order_ = core::CounterRandom(seed_, static_cast<std::uint64_t>(epoch)).permutation(count);
    }
    const index_t begin = step % steps_per_epoch * settings_.batch_size;
    const index_t end = std::min(begin + settings_.batch_size, count);
    std::transform(order_.begin() + begin, order_.begin() + end, std::back_inserter(chosen),
                   [&](index_t place) { return data_.epoch_sequence(place); });
    return chosen;
}

StepBatches Batches::at(index_t step) {
    StepBatches batches = share_of(data_, sequences_of(step), settings_.micro_batch, rank_, dealing_);
    for (ops::TokenBatch& pass : batches.passes) {
        pass.step = step;
    }
    return batches;
}

std::vector<std::vector<index_t>> spread(const Dataset& data, std::span<const index_t> sequences,
                                         const Dealing& dealing) {
    struct Costly {
        index_t sequence;
        double cost;
    };
    std::vector<Costly> by_cost;
    std::transform(sequences.begin(), sequences.end(), std::back_inserter(by_cost), [&](index_t sequence) {
        return Costly{sequence, dealing.cost(data.length(sequence), data.target_tokens(sequence))};
    });
    std::stable_sort(by_cost.begin(), by_cost.end(), [](const Costly& a, const Costly& b) { return a.cost > b.cost; });
    std::vector<std::vector<index_t>> shares(static_cast<std::size_t>(dealing.ranks));
    std::vector<double> of_rank(shares.size(), 0);
    std::vector<double> of_replica(shares.size() / static_cast<std::size_t>(dealing.replica_ranks), 0);
    const auto replica_of = [&](std::size_t rank) { return rank / static_cast<std::size_t>(dealing.replica_ranks); };
    for (const Costly& next : by_cost) {
        std::size_t lightest = 0;
        for (std::size_t rank = 1; rank < shares.size(); ++rank) {
            const auto load = [&](std::size_t r) { return std::pair(of_rank[r], of_replica[replica_of(r)]); };
            lightest = load(rank) < load(lightest) ? rank : lightest;
        }
        shares[lightest].push_back(next.sequence);
        of_rank[lightest] += next.cost;
        of_replica[replica_of(lightest)] += next.cost;
    }
    return shares;
}

StepBatches share_of(const Dataset& data, std::span<const index_t> sequences, index_t micro_batch, int rank,
                     const Dealing& dealing) {
    StepBatches step;
    for (const index_t sequence : sequences) {
        step.tokens += data.length(sequence);
        step.target_tokens += data.target_tokens(sequence);
    }
    const auto shares = spread(data, sequences, dealing);
    const auto& mine = shares[static_cast<std::size_t>(rank)];
    const auto longest = std::max_element(shares.begin(), shares.end(),
                                          [](const auto& a, const auto& b) { return a.size() < b.size(); });
    const std::size_t per_pass = micro_batch > 0 ? static_cast<std::size_t>(micro_batch) : longest->size();
    for (std::size_t begin = 0; begin < longest->size(); begin += per_pass) {
        const std::size_t first = std::min(begin, mine.size());
        const std::size_t count = std::min(per_pass, mine.size() - first);
        step.passes.push_back(data.batch(std::span(mine).subspan(first, count)));
    }
    return step;
}

}  // namespace moesaic::train
