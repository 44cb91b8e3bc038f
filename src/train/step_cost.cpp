#include "train/step_cost.hpp"

#include "model/adapters/lora_parameters.hpp"
#include "model/feed_forward/token_exchange.hpp"
#include "model/layer_plan.hpp"
#include "ops/blocks.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::train {
namespace {

// What was found by measuring steps; `moesaic bench step --grids all` prints predicted times beside measured ones.
// Parts of the peak that products reach are usual_efficiency (machine_rates.cpp).

/// Columns of the experts' intermediate dimension that a routed row is computed in besides its slice: gathering it,
/// adapters that every rank of a tensor group computes, and adding its result up. Slices don't make it less.
constexpr double columns_of_row = 100;

/// Rows that an expert is computed for besides those that it gets: half of a strip of 32 that is not full.
constexpr double rows_of_expert = 16;

/// Part of the bandwidth of reading memory that weights, sums and adapters are streamed with.
constexpr double streaming = 0.7;

/// Part of the computing that ranks wait longer because they meet in every layer: one is always disturbed.
constexpr double waiting = 0.03;

/// Calls of MPI for a layer, forward and backward: numbers, rows, numbers of experts and weights out, results back;
/// gradients out, gradients of rows and weights back.
constexpr double calls_between_groups = 8;
constexpr double calls_in_group = 7;

/// Bytes of memory per element of an adapter and step: its gradient is cleared, and the factor rounded.
constexpr double adapter_bytes = 4 + 4 + 2;
/// The same per element that a rank owns: gradient, factor and moments are read and written.
constexpr double optimizer_bytes = 4 + 3 * 8;

constexpr double activation_bytes = 2;
constexpr double sum_bytes = 4;

/// Ranks of a group, `stride` apart, as one of them sees the others.
struct Group {
    index_t size = 1;
    index_t stride = 1;
    index_t host_ranks = 1;

    [[nodiscard]] double others() const { return static_cast<double>(size - 1); }
    [[nodiscard]] double others_of_host() const {
        return static_cast<double>(std::min((host_ranks - 1) / stride, size - 1));
    }
    /// For bytes that come from all others alike.
    [[nodiscard]] double seconds(double bytes, double calls, const MachineRates& rates) const {
        return seconds_at(bytes, rates.host.gather, rates.network.gather) +
               (size == 1 ? 0 : calls * (others_of_host() < others() ? rates.network : rates.host).latency);
    }
    /// For bytes that all others alike add to theirs.
    [[nodiscard]] double seconds_to_sum(double bytes, const MachineRates& rates) const {
        return seconds_at(bytes, rates.host.sum, rates.network.sum);
    }

private:
    [[nodiscard]] double seconds_at(double bytes, double rate_of_host, double rate_of_network) const {
        const double of_host = size == 1 ? 1 : others_of_host() / others();
        return size == 1 ? 0 : bytes * (of_host / rate_of_host + (1 - of_host) / rate_of_network);
    }
};

/// Choices that fall on the experts of the busiest tensor group.
struct BusiestGroup {
    double rows = 0;      ///< choices: rows of its experts
    double in_use = 0;    ///< experts of it that get rows
    double arriving = 0;  ///< tokens that have an expert there
    double all_sent = 0;  ///< the same of all groups together
};

BusiestGroup find_busiest(const model::Architecture& a, const StepsToCome& steps, double tokens) {
    const auto experts = static_cast<double>(a.experts);
    const auto choices = static_cast<double>(a.experts_per_token);
    BusiestGroup busiest;
    for (index_t g = 0; g < steps.grid.expert; ++g) {
        const core::Slice held = core::slice_of(a.experts, g, steps.grid.expert);
        BusiestGroup group;
        double missed = 1;  // part of the tokens
        for (index_t e = held.begin; e < held.end(); ++e) {
            const double part = steps.popularity.empty() ? 1 / experts : steps.popularity[static_cast<std::size_t>(e)];
            const double chance = std::min(choices * part, 1.0);
            group.rows += chance * tokens;
            group.in_use += 1 - std::pow(1 - chance, tokens);
            missed *= 1 - chance;
        }
        group.arriving =
            tokens * (steps.popularity.empty() ? share_of_tokens(experts, static_cast<double>(held.extent), choices)
                                               : 1 - missed);
        const double all_sent = busiest.all_sent + group.arriving;
        busiest = group.rows > busiest.rows ? group : busiest;
        busiest.all_sent = all_sent;
    }
    // Choices are random: of several groups one has more than its mean, at most the choices of all tokens.
    const double deviation = std::sqrt(busiest.rows * (1 - 1 / static_cast<double>(steps.grid.expert)));
    busiest.rows += deviation * std::sqrt(2 * std::log(static_cast<double>(steps.grid.expert)));
    return busiest;
}

}  // namespace

/// Passes of a step that are alike.
struct CostModel::Pass {
    const StepsToCome& steps;
    const MachineRates& rates;
    double count = 1;
    double own = 0;      ///< tokens of the rank that has most
    double replica = 0;  ///< tokens of the replica that has most

    /// Of expert layers, as seconds do: forward, and backward in training.
    [[nodiscard]] double directions() const { return steps.training ? 2 : 1; }
    [[nodiscard]] bool meets() const { return steps.grid.expert * steps.grid.tensor > 1; }
    [[nodiscard]] bool meets_hosts() const { return steps.grid.expert * steps.grid.tensor > steps.host_ranks; }
    [[nodiscard]] double chunks(const model::Architecture& a) const {
        return static_cast<double>(steps.chunks > 0
                                       ? steps.chunks
                                       : model::automatic_chunks(meets_hosts(), static_cast<index_t>(replica),
                                                                 std::max(a.experts, index_t{1}), a.experts_per_token));
    }
};

index_t StepsToCome::passes() const {
    const index_t of_rank = (batch_size + grid.ranks() - 1) / grid.ranks();
    return micro_batch > 0 ? (of_rank + micro_batch - 1) / micro_batch : 1;
}

CostModel::CostModel(const model::Architecture& architecture, const model::LoraSettings& lora)
    : architecture_(architecture), work_(architecture) {
    for (const model::LayerPlan& layer : model::plan_layers(architecture, {.lora = lora}, {})) {
        for (const model::BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            for (const model::ProjectionPlan& projection : block->projections) {
                for (const ops::LoraFactor factor : {ops::LoraFactor::a, ops::LoraFactor::b}) {
                    const double elements =
                        static_cast<double>(projection.lora_rank) *
                        static_cast<double>(factor == ops::LoraFactor::a ? projection.in : projection.out);
                    const bool is_whole = holders_of(projection, factor) == model::Holders::data_and_tensor_groups;
                    (!projection.is_routed() ? adapters_.other
                     : is_whole              ? adapters_.whole
                                             : adapters_.sliced) += elements;
                }
            }
        }
    }
}

double CostModel::padded_slice(index_t tensor) const {
    const index_t largest = model::shard_of(architecture_.expert_intermediate, tensor - 1, tensor).extent;
    return static_cast<double>(ops::padded(largest)) / static_cast<double>(architecture_.expert_intermediate);
}

StepCost CostModel::of(const StepsToCome& steps, const MachineRates& rates) const {
    // Sequences are dealt to ranks one by one, so that some ranks, alike in all replicas, have one more than others.
    const index_t ranks = steps.grid.ranks();
    const index_t all = steps.batch_size / ranks;
    const index_t with_one_more = steps.batch_size % ranks;
    const index_t of_replica = steps.grid.expert * steps.grid.tensor;
    const index_t most = all + (with_one_more > 0 ? 1 : 0);
    const index_t per_pass = steps.micro_batch > 0 ? std::min(steps.micro_batch, most) : most;
    const index_t full = all / per_pass;
    const auto tokens = [&](index_t sequences) { return static_cast<double>(sequences) * steps.sequence_length; };
    StepCost cost;
    if (full > 0) {
        add_pass({steps, rates, static_cast<double>(full), tokens(per_pass), tokens(per_pass * of_replica)}, cost);
    }
    const index_t left = all - full * per_pass;
    if (const index_t own = most - full * per_pass; own > 0) {
        add_pass({steps, rates, 1, tokens(own),
                  tokens(left * of_replica + (with_one_more + steps.grid.data - 1) / steps.grid.data)},
                 cost);
    }
    cost.reduction = steps.training ? reduction(steps, rates) : 0;
    return cost;
}

void CostModel::add_pass(const Pass& pass, StepCost& cost) const {
    const StepsToCome& steps = pass.steps;
    const core::MachineLimits limits = pass.rates.limits;
    const Efficiency& efficiency = pass.rates.efficiency;
    // Weights are read and unpacked before rows are computed with them: with few rows, both take their time.
    const auto seconds = [&](const core::Work& work, double part_of_peak) {
        return work.operations / (part_of_peak * limits.peak_flops) +
               work.bytes / (streaming * limits.bytes_per_second);
    };
    const auto intermediate = static_cast<double>(architecture_.expert_intermediate);
    const BusiestGroup group = find_busiest(architecture_, steps, pass.replica);
    const double slice = padded_slice(steps.grid.tensor);
    const double chunks = pass.chunks(architecture_);
    StepWork work = work_.of({.tokens = pass.own,
                              .rows = group.rows + chunks * rows_of_expert * group.in_use,
                              .experts = chunks * group.in_use,
                              .slice = slice});
    work.experts.operations *= 1 + columns_of_row / (slice * intermediate);
    constexpr double gate_and_up = 2.0 / 3;
    const bool recomputes = steps.training && steps.activations != ops::Activations::retain;
    const bool by_layer = steps.training && steps.activations == ops::Activations::layer;
    const double experts =
        (pass.directions() + (recomputes ? gate_and_up : 0)) * seconds(work.experts, efficiency.experts);
    const double scores = work_.score_operations(steps.sequence_length) * pass.own / steps.sequence_length /
                          (steps.training ? 1 : 1 + ModelWork::backward_of_scores);
    const double forward_of_scores = 1 / (1 + ModelWork::backward_of_scores);
    const double other = (pass.directions() + (by_layer ? 1 : 0)) * seconds(work.projections, efficiency.projections) +
                         pass.directions() * seconds(work.head, efficiency.projections) +
                         scores * (1 + (by_layer ? forward_of_scores : 0)) / (limits.peak_flops * efficiency.scores);
    cost.experts += pass.count * experts;
    cost.other += pass.count * other;
    if (pass.meets()) {
        cost.exchange += pass.count * waiting * (experts + other);
        add_exchange(pass, cost);
    }
}

/// docs/architecture.md has the table of the bytes.
void CostModel::add_exchange(const Pass& pass, StepCost& cost) const {
    const auto& [data, groups, slices] = pass.steps.grid;
    const auto hidden = static_cast<double>(architecture_.hidden);
    const auto choices = static_cast<double>(architecture_.experts_per_token);
    const double directions = pass.directions();
    const double out = directions * hidden * activation_bytes + 8 * choices;
    const double back = directions * hidden * activation_bytes + (pass.steps.training ? 4 * choices : 0);
    const BusiestGroup group = find_busiest(architecture_, pass.steps, pass.replica);
    const double elsewhere = 1 - 1 / static_cast<double>(groups);
    const double sent = pass.own * group.all_sent / pass.replica * elsewhere;
    const double arrived = group.arriving / static_cast<double>(slices);
    const double chunks = pass.chunks(architecture_);
    const Group expert = {groups, slices, pass.steps.host_ranks};
    const Group tensor = {slices, 1, pass.steps.host_ranks};
    const double transfers =
        expert.seconds(std::max(sent * out + arrived * elsewhere * back, sent * back + arrived * elsewhere * out),
                       chunks * calls_between_groups, pass.rates) +
        tensor.seconds(tensor.others() * arrived * (out + back), chunks * calls_in_group, pass.rates);
    // Rows are put side by side, and results rounded and added up where they arrive.
    const double local = hidden * (2 * activation_bytes * sent + (sum_bytes + activation_bytes) * group.arriving +
                                   activation_bytes * static_cast<double>(slices) * arrived +
                                   (sum_bytes + activation_bytes) * (sent + pass.own));
    const double of_layer = transfers / chunks + directions * local / (streaming * pass.rates.limits.bytes_per_second);
    cost.exchange += pass.count * static_cast<double>(architecture_.moe_layers()) * of_layer;
}

/// Reduced gradients and new factors travel once each.
double CostModel::reduction(const StepsToCome& steps, const MachineRates& rates) const {
    const auto& [data, groups, slices] = steps.grid;
    const auto held = static_cast<double>((architecture_.experts + groups - 1) / groups);
    const double memory = streaming * rates.limits.bytes_per_second;
    double seconds = 0;
    const auto add = [&](double elements, const Group& holders) {
        const auto size = static_cast<double>(holders.size);
        const double of_others = sum_bytes * elements * holders.others() / size;
        seconds += elements * (adapter_bytes + optimizer_bytes / size) / memory +
                   holders.seconds_to_sum(of_others, rates) +
                   holders.seconds(of_others, 2 * static_cast<double>(architecture_.layers), rates);
    };
    add(held * adapters_.sliced * padded_slice(slices), {data, groups * slices, steps.host_ranks});
    add(held * adapters_.whole, {data * slices, data > 1 ? groups : 1, steps.host_ranks});
    add(adapters_.other, {steps.grid.ranks(), 1, steps.host_ranks});
    return seconds;
}

}  // namespace moesaic::train
