#include "model/adapters/lora_parameters.hpp"

#include "core/error.hpp"
#include "core/options.hpp"
#include "core/random.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace moesaic::model {

namespace {

constexpr double largest_rank = 65536;

}  // namespace

std::string LoraTensor::adapter_name(index_t index) const {
    return "base_model.model." + modules[static_cast<std::size_t>(index)] +
           (factor == ops::LoraFactor::a ? ".lora_A.weight" : ".lora_B.weight");
}

void LoraSettings::declare(core::OptionSet& set) {
    set.add("lora.rank", rank, "rank of the adapters", core::at_least(1));
    set.add("lora.alpha", alpha, "adapters are scaled by alpha / rank", core::positive());
    set.add_enum("lora.targets", targets, "what is adapted: a list of experts, attention, shared, dense");
    set.add("lora.rslora", rank_stabilised, "scale by alpha / sqrt(rank) instead");
    set.add("lora.dropout", dropout, "probability with which elements of the adapters' inputs are zeroed in training",
            core::within(0, 0.99));
    const auto add_patterns = [&set](const char* key, ModulePatterns& patterns, const char* help) {
        set.add_text(
            key, help, [&patterns] { return patterns.text(); },
            [&patterns](const std::string& text, const std::string& full_key, const std::string&) {
                patterns = ModulePatterns::parse(full_key, text);
            });
    };
    add_patterns("lora.rank_pattern", rank_pattern,
                 "other ranks for some modules, as PEFT's rank_pattern: PATTERN=RANK,... where a pattern is a regular "
                 "expression for the last parts of names");
    add_patterns("lora.alpha_pattern", alpha_pattern, "the same for alpha");
}

double LoraSettings::scale(index_t lora_rank, double module_alpha) const {
    const auto r = static_cast<double>(lora_rank);
    return module_alpha / (rank_stabilised ? std::sqrt(r) : r);
}

AdapterSpec LoraSettings::spec_of(LoraTarget target, const std::string& module) const {
    if (modules) {
        const auto found = modules->find(module);
        return found == modules->end() ? AdapterSpec() : found->second;
    }
    if (rank == 0 || targets.count(target) == 0) {
        return {};
    }
    const double wanted = rank_pattern.value_of(module, static_cast<double>(rank));
    const auto lora_rank = static_cast<index_t>(std::min(wanted, largest_rank));
    core::require(lora_rank > 0 && static_cast<double>(lora_rank) == wanted, core::ExitCode::usage,
                  "module {} would have rank {} (a rank is an integer from 1 to {}); correct lora.rank_pattern", module,
                  wanted, largest_rank);
    return {lora_rank, scale(lora_rank, alpha_pattern.value_of(module, alpha))};
}

const mpi::Communicator& group_of(const mpi::ProcessGrid& grid, Holders holders) {
    return holders == Holders::all_ranks      ? grid.world()
           : holders == Holders::same_experts ? grid.same_experts()
                                              : grid.data();
}

template <class A>
ModuleFactors<A>::ModuleFactors(ParameterBucket<A>& bucket, LoraTarget target, const std::string& module, index_t out,
                                index_t in, AdapterSpec spec)
    : bucket_(&bucket), first_(bucket.tensors.size()) {
    for (const ops::LoraFactor factor : {ops::LoraFactor::a, ops::LoraFactor::b}) {
        const bool is_a = factor == ops::LoraFactor::a;
        LoraTensor tensor;
        tensor.name = module + (is_a ? ".lora_A" : ".lora_B");
        tensor.modules = {module};
        tensor.target = target;
        tensor.factor = factor;
        tensor.specs = {spec};
        tensor.held = {0, 1};
        tensor.rows = tensor.local_rows = is_a ? spec.lora_rank : out;
        tensor.cols = tensor.local_cols = is_a ? in : spec.lora_rank;
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
            std::fill_n(bucket->view(tensor, bucket->values).data(), tensor.size(), A(0));
            // PEFT draws A with kaiming_uniform(a = sqrt(5)), whose bound is 1 / sqrt(fan in).
            const double bound = 1.0 / std::sqrt(static_cast<double>(tensor.cols));
#pragma omp parallel for schedule(static)
            for (index_t m = tensor.held.begin; m < tensor.held.end(); ++m) {
                const MatrixView<A> matrix = bucket->matrix(tensor, m, bucket->values);
                const std::string& module = tensor.modules[static_cast<std::size_t>(m)];
                const core::CounterRandom random(seed, XXH3_64bits(module.data(), module.size()));
                const index_t own_rows =
                    tensor.factor == ops::LoraFactor::a ? tensor.lora_rank_of(m) : 0;  // the rest stays zero
                for (index_t i = 0; i < own_rows; ++i) {
                    for (index_t j = 0; j < tensor.local_cols; ++j) {
                        const auto index = static_cast<std::uint64_t>(i * tensor.cols + tensor.col_begin() + j);
                        matrix(i, j) = static_cast<A>(bound * (2.0 * random.uniform(index) - 1.0));
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
            for (index_t m = 0; m < tensor.count(); ++m) {
                size += tensor.unpadded_rows(m) * tensor.unpadded_cols(m);
            }
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
