#include "model/lora_parameters.hpp"

#include "core/random.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace moesaic::model {

std::string LoraTensor::peft_name(index_t index) const {
    return "base_model.model." + modules[static_cast<std::size_t>(index)] +
           (factor == LoraFactor::a ? ".lora_A.weight" : ".lora_B.weight");
}

LoraShape LoraSettings::shape_of(LoraTarget target, const std::string& /*module*/) const {
    if (rank == 0 || targets.count(target) == 0) {
        return {};
    }
    const auto r = static_cast<double>(rank);
    return {rank, alpha / (rank_stabilised ? std::sqrt(r) : r)};
}

template <class A>
ModuleFactors<A>::ModuleFactors(ParameterBucket<A>& bucket, const std::string& module, index_t out, index_t in,
                                index_t rank)
    : bucket_(&bucket), first_(bucket.tensors.size()) {
    for (const LoraFactor factor : {LoraFactor::a, LoraFactor::b}) {
        const bool is_a = factor == LoraFactor::a;
        LoraTensor tensor;
        tensor.name = module + (is_a ? ".lora_A" : ".lora_B");
        tensor.modules = {module};
        tensor.factor = factor;
        tensor.rows = tensor.local_rows = is_a ? rank : out;
        tensor.cols = tensor.local_cols = is_a ? in : rank;
        bucket.tensors.push_back(std::move(tensor));
    }
}

template <class A>
void LoraParameters<A>::clear_gradients() {
    for (const auto& bucket : buckets) {
        bucket->gradients.fill(A(0));
    }
}

template <class A>
void LoraParameters<A>::initialise(std::uint64_t seed) {
    for (const auto& bucket : buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            const MatrixView<A> all = bucket->view(tensor, bucket->values);
            // PEFT draws A with kaiming_uniform(a = sqrt(5)), whose bound is 1 / sqrt(fan in).
            const double bound = tensor.factor == LoraFactor::a ? 1.0 / std::sqrt(static_cast<double>(tensor.cols)) : 0;
            for (index_t m = 0; m < tensor.count(); ++m) {
                const std::string& module = tensor.modules[static_cast<std::size_t>(m)];
                const core::CounterRandom random(seed, XXH3_64bits(module.data(), module.size()));
                for (index_t i = 0; i < tensor.local_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const index_t row = i + (tensor.sharding == Sharding::rows ? tensor.sharded_begin : 0);
                        const index_t col = j + (tensor.sharding == Sharding::columns ? tensor.sharded_begin : 0);
                        const auto index = static_cast<std::uint64_t>(row * tensor.cols + col);
                        const double draw = bound == 0 ? 0 : bound * (2.0 * random.uniform(index) - 1.0);
                        all(m * tensor.local_rows + i, j) = static_cast<A>(draw);
                    }
                }
            }
        }
    }
}

template <class A>
index_t LoraParameters<A>::global_size() const {
    index_t size = 0;
    for (const auto& bucket : buckets) {
        for (const LoraTensor& tensor : bucket->tensors) {
            size += tensor.count() * tensor.rows * tensor.cols;
        }
    }
    return size;
}

template <class A>
void allocate(ParameterBucket<A>& bucket) {
    index_t size = 0;
    for (LoraTensor& tensor : bucket.tensors) {
        tensor.offset = size;
        size += tensor.size();
    }
    bucket.values.resize(1, size);
    bucket.values.fill(A(0));
    bucket.gradients.resize(1, size);
    bucket.gradients.fill(A(0));
}

template class ModuleFactors<float>;
template class ModuleFactors<double>;
template struct LoraParameters<float>;
template struct LoraParameters<double>;
template void allocate(ParameterBucket<float>&);
template void allocate(ParameterBucket<double>&);

}  // namespace moesaic::model
