#include "model/adapters/lora_parameters.hpp"

#include "core/random.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace moesaic::model {

LoraTensor::LoraTensor(const ProjectionPlan& plan, ops::LoraFactor which)
    : modules(plan.modules),
      specs(plan.specs),
      target(plan.target),
      projection(plan.routed),
      factor(which),
      held(plan.held) {
    const bool is_a = factor == ops::LoraFactor::a;
    name = plan.name + (is_a ? ".lora_A" : ".lora_B");
    rows = is_a ? plan.lora_rank : plan.out;
    cols = is_a ? plan.in : plan.lora_rank;
    local_rows = is_a ? rows : plan.local_out();
    local_cols = is_a ? plan.local_in() : cols;
    if (plan.sharded == (is_a ? ShardedSide::in : ShardedSide::out)) {
        sharding = is_a ? Sharding::columns : Sharding::rows;
        sharded_begin = plan.shard.begin;
    }
}

std::string LoraTensor::adapter_name(index_t index) const {
    return "base_model.model." + modules[static_cast<std::size_t>(index)] +
           (factor == ops::LoraFactor::a ? ".lora_A.weight" : ".lora_B.weight");
}

/// The factor with the dimension that is spread has complete gradients on each rank of the tensor group.
Holders holders_of(const ProjectionPlan& projection, ops::LoraFactor factor) noexcept {
    if (!projection.is_routed()) {
        return Holders::all_ranks;
    }
    const bool is_spread = projection.sharded == (factor == ops::LoraFactor::a ? ShardedSide::in : ShardedSide::out);
    return is_spread ? Holders::data_group : Holders::data_and_tensor_groups;
}

const mpi::Communicator& group_of(const mpi::ProcessGrid& grid, Holders holders) {
    return holders == Holders::all_ranks                ? grid.world()
           : holders == Holders::data_and_tensor_groups ? grid.same_experts()
                                                        : grid.data();
}

namespace {

constexpr std::array both_factors = {ops::LoraFactor::a, ops::LoraFactor::b};

/// Adds a bucket of the factors that `holders` have of those projections of a layer that are adapted.
template <class Sum>
void add_bucket(const std::vector<const ProjectionPlan*>& projections, Holders holders,
                std::optional<index_t> experts_of_layer, std::vector<std::unique_ptr<ParameterBucket<Sum>>>& buckets) {
    auto bucket = std::make_unique<ParameterBucket<Sum>>();
    bucket->holders = holders;
    bucket->experts_of_layer = experts_of_layer;
    for (const ProjectionPlan* projection : projections) {
        for (const ops::LoraFactor factor : both_factors) {
            if (projection->lora_rank > 0 && holders_of(*projection, factor) == holders) {
                bucket->tensors.emplace_back(*projection, factor);
            }
        }
    }
    if (!bucket->tensors.empty()) {
        allocate(*bucket);
        buckets.push_back(std::move(bucket));
    }
}

}  // namespace

template <class Sum>
void allocate(ParameterBucket<Sum>& bucket) {
    index_t size = 0;
    for (LoraTensor& tensor : bucket.tensors) {
        tensor.offset = size;
        size += tensor.size();
    }
    for (core::Matrix<Sum>* storage : {&bucket.values, &bucket.gradients}) {
        storage->resize(1, size);
        storage->fill(Sum(0));
    }
}

template <class Sum>
LoraParameters<Sum>::LoraParameters(const std::vector<LayerPlan>& layers, LoraSettings lora_settings)
    : settings(std::move(lora_settings)) {
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        std::vector<const ProjectionPlan*> routed;
        std::vector<const ProjectionPlan*> replicated;
        for (const BlockPlan* block : {&layers[layer].mixer, &layers[layer].feed_forward}) {
            for (const ProjectionPlan& projection : block->projections) {
                (projection.is_routed() ? routed : replicated).push_back(&projection);
            }
        }
        add_bucket(routed, Holders::data_and_tensor_groups, static_cast<index_t>(layer), buckets);
        add_bucket(routed, Holders::data_group, static_cast<index_t>(layer), buckets);
        add_bucket(replicated, Holders::all_ranks, std::nullopt, buckets);
    }
}

template <class Sum>
ProjectionFactors<Sum> LoraParameters<Sum>::factors_of(const ProjectionPlan& projection) const {
    ProjectionFactors<Sum> found;
    for (const auto& bucket : buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            if (tensor.modules.front() == projection.modules.front()) {
                const bool is_a = tensor.factor == ops::LoraFactor::a;
                (is_a ? found.values.a : found.values.b) = bucket->view(tensor, bucket->values);
                (is_a ? found.gradients.a : found.gradients.b) = bucket->view(tensor, bucket->gradients);
            }
        }
    }
    return found;
}

template <class Sum>
void LoraParameters<Sum>::clear_gradients() {
    for (const auto& bucket : buckets) {
        bucket->gradients.fill(Sum(0));
    }
}

template <class Sum>
void LoraParameters<Sum>::initialise(std::uint64_t seed) {
    for (const auto& bucket : buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            std::fill_n(bucket->view(tensor, bucket->values).data(), tensor.size(), Sum(0));
            // PEFT draws A with kaiming_uniform(a = sqrt(5)), whose bound is 1 / sqrt(fan in).
            const double bound = 1.0 / std::sqrt(static_cast<double>(tensor.cols));
#pragma omp parallel for schedule(static)
            for (index_t m = tensor.held.begin; m < tensor.held.end(); ++m) {
                const MatrixView<Sum> matrix = bucket->matrix(tensor, m, bucket->values);
                const std::string& module = tensor.modules[static_cast<std::size_t>(m)];
                const core::CounterRandom random(seed, XXH3_64bits(module.data(), module.size()));
                const index_t own_rows =
                    tensor.factor == ops::LoraFactor::a ? tensor.lora_rank_of(m) : 0;  // the rest stays zero
                for (index_t i = 0; i < own_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const auto index = static_cast<std::uint64_t>(i * tensor.cols + tensor.col_begin() + j);
                        matrix(i, j) = static_cast<Sum>(bound * (2.0 * random.uniform(index) - 1.0));
                    }
                }
            }
        }
    }
}

template <class Sum>
index_t LoraParameters<Sum>::global_size() const {
    index_t size = 0;
    for (const auto& bucket : buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            for (index_t m = 0; m < tensor.count(); ++m) {
                size += tensor.unpadded_rows(m) * tensor.unpadded_cols(m);
            }
        }
    }
    return size;
}

template void allocate(ParameterBucket<float>&);
template void allocate(ParameterBucket<double>&);
template struct LoraParameters<float>;
template struct LoraParameters<double>;

}  // namespace moesaic::model
