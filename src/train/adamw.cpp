#include "train/adamw.hpp"

#include "core/options.hpp"
#include "core/trace.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesaic::train {

using core::MatrixView;
using core::trace::Scope;

namespace {

/// Elements that are worked on together. Sums are split the same way whatever the number of threads.
constexpr index_t elements_per_task = index_t{1} << 15;

/// Calls body(block, begin, count) for all blocks of `size` elements, in parallel.
template <class Body>
void for_each_block(index_t size, Body body) {
#pragma omp parallel for schedule(static)
    for (index_t begin = 0; begin < size; begin += elements_per_task) {
        body(begin / elements_per_task, begin, std::min(elements_per_task, size - begin));
    }
}

}  // namespace

void AdamWSettings::declare(core::OptionSet& set) {
    constexpr double largest_decay = 0.999999999;
    set.add("train.weight_decay", weight_decay, "weight decay of AdamW, decoupled from the gradients",
            core::within(0, 1e3));
    set.add("train.beta1", beta1, "decay of AdamW's first moment of the gradients", core::within(0, largest_decay))
        .known_as({"adam_beta1"});
    set.add("train.beta2", beta2, "decay of AdamW's second moment of the gradients", core::within(0, largest_decay))
        .known_as({"adam_beta2"});
    set.add("train.eps", epsilon, "what AdamW adds to the root of the second moment", core::positive())
        .known_as({"adam_epsilon", "epsilon"});
}

ShardedAdamW::ShardedAdamW(model::LoraParameters<float>& parameters, const kernels::KernelSet& kernels,
                           const mpi::ProcessGrid& grid, const AdamWSettings& settings)
    : parameters_(parameters), kernels_(kernels), grid_(grid), settings_(settings), shards_(parameters.buckets.size()) {
    for (std::size_t b = 0; b < shards_.size(); ++b) {
        const index_t size = parameters.buckets[b]->size();
        const mpi::Communicator& owners = group(b);
        for (int r = 0; r < owners.size(); ++r) {
            shards_[b].counts.push_back(core::slice_of(size, r, owners.size()).extent);
        }
        const core::Slice mine = core::slice_of(size, owners.rank(), owners.size());
        shards_[b].begin = mine.begin;
        for (auto* values : {&shards_[b].first_moment, &shards_[b].second_moment}) {
            values->assign(static_cast<std::size_t>(mine.extent), 0.0F);
        }
        if (owners.size() == 1) {
            shards_[b].gradients = parameters.buckets[b]->gradients.flat();
        } else {
            shards_[b].reduced.assign(static_cast<std::size_t>(mine.extent), 0.0F);
            shards_[b].gradients = shards_[b].reduced;
        }
    }
}

std::span<const float> OwnedShard::data(OwnedData which) const {
    switch (which) {
        case OwnedData::first_moment:
            return first_moment;
        case OwnedData::second_moment:
            return second_moment;
        case OwnedData::gradients:
            break;
    }
    return gradients;
}

core::Matrix<float> ShardedAdamW::gather(std::size_t bucket, OwnedData which) const {
    core::Matrix<float> whole(1, parameters_.buckets[bucket]->size());
    group(bucket).gather_blocks<float>(shards_[bucket].data(which), whole.flat(), shards_[bucket].counts);
    return whole;
}

void ShardedAdamW::set_moments(std::size_t bucket, const core::Matrix<float>& first,
                               const core::Matrix<float>& second) {
    OwnedShard& shard = shards_[bucket];
    std::copy_n(first.data() + shard.begin, shard.first_moment.size(), shard.first_moment.data());
    std::copy_n(second.data() + shard.begin, shard.second_moment.size(), shard.second_moment.data());
}

const mpi::Communicator& ShardedAdamW::group(std::size_t bucket) const {
    return model::group_of(grid_, parameters_.buckets[bucket]->holders);
}

void ShardedAdamW::reduce_gradients() {
    const Scope scope(core::scopes::gradients_reduce);
    for (std::size_t b = 0; b < shards_.size(); ++b) {
        if (group(b).size() == 1) {
            continue;
        }
        OwnedShard& shard = shards_[b];
        core::Matrix<float>& all = parameters_.buckets[b]->gradients;
        group(b).reduce_scatter_rows<float>(
            MatrixView<const float>(all.data(), all.cols(), 1),
            MatrixView<float>(shard.gradients.data(), static_cast<index_t>(shard.gradients.size()), 1), shard.counts);
    }
}

double ShardedAdamW::squared_norm() const {
    const auto& row_kernels = kernels_.elementwise<float>();
    double sum = 0;
    for (const OwnedShard& shard : shards_) {
        const auto size = static_cast<index_t>(shard.gradients.size());
        std::vector<double> sums(static_cast<std::size_t>((size + elements_per_task - 1) / elements_per_task));
        for_each_block(size, [&](index_t block, index_t begin, index_t count) {
            sums[static_cast<std::size_t>(block)] = row_kernels.sum_of_squares(count, shard.gradients.data() + begin);
        });
        sum = std::accumulate(sums.begin(), sums.end(), sum);
    }
    return sum;
}

void ShardedAdamW::step(double learning_rate, double clip_scale) {
    const Scope scope(core::scopes::optimizer_step);
    ++updates_;
    const auto updates = static_cast<double>(updates_);
    const kernels::AdamWFactors<float> factors = {
        .beta1 = static_cast<float>(settings_.beta1),
        .beta2 = static_cast<float>(settings_.beta2),
        .clip = static_cast<float>(clip_scale),
        .step_size = static_cast<float>(learning_rate / (1.0 - std::pow(settings_.beta1, updates))),
        .correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(settings_.beta2, updates))),
        .epsilon = static_cast<float>(settings_.epsilon),
        .decay = static_cast<float>(1.0 - learning_rate * settings_.weight_decay),
    };
    const auto& row_kernels = kernels_.elementwise<float>();
    for (std::size_t b = 0; b < shards_.size(); ++b) {
        OwnedShard& shard = shards_[b];
        core::Matrix<float>& all = parameters_.buckets[b]->values;
        const auto size = static_cast<index_t>(shard.gradients.size());
        float* const values = all.data() + shard.begin;
        for_each_block(size, [&](index_t, index_t begin, index_t count) {
            row_kernels.adamw(count, factors, shard.gradients.data() + begin, shard.first_moment.data() + begin,
                              shard.second_moment.data() + begin, values + begin, values + begin);
        });
        group(b).all_gather_rows<float>(MatrixView<const float>(values, size, 1),
                                        MatrixView<float>(all.data(), all.cols(), 1), shard.counts);
    }
}

}  // namespace moesaic::train
