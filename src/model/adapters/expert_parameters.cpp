#include "model/adapters/expert_parameters.hpp"

#include <algorithm>
#include <utility>

namespace moesaic::model {

const std::string& projection_name(const TensorNames& names, ops::Projection projection) {
    return projection == ops::Projection::gate ? names.gate : projection == ops::Projection::up ? names.up : names.down;
}

ExpertPart::ExpertPart(const Architecture& architecture, const mpi::ProcessGrid& grid)
    : experts(core::slice_of(architecture.experts, grid.expert().rank(), grid.expert().size())),
      intermediate(core::slice_of(architecture.expert_intermediate, grid.tensor().rank(), grid.tensor().size())) {}

template <class A>
ExpertParameters<A>::ExpertParameters(const Architecture& architecture, index_t layer, const ExpertPart& part,
                                      LoraParameters<A>& parameters)
    : experts_(part.experts) {
    for (const ops::Projection p : ops::projections) {
        std::vector<AdapterSpec>& specs = specs_[static_cast<std::size_t>(p)];
        for (index_t e = 0; e < architecture.experts; ++e) {
            const std::string module = architecture.expert_module(layer, e, projection_name(architecture.names, p));
            specs.push_back(parameters.settings.spec_of(LoraTarget::experts, module));
            lora_rank_ = std::max(lora_rank_, specs.back().lora_rank);
        }
    }
    if (lora_rank_ == 0) {
        return;
    }
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
        auto bucket = std::make_unique<ParameterBucket<A>>();
        bucket->holders = i == 0 ? Holders::same_experts : Holders::same_slices;
        bucket->experts_of_layer = layer;
        for (const ops::Projection p : ops::projections) {
            for (const ops::LoraFactor which : {ops::LoraFactor::a, ops::LoraFactor::b}) {
                LoraTensor tensor = factor(architecture, layer, p, which, part);
                if ((tensor.sharding == Sharding::none) == (i == 0)) {
                    bucket->tensors.push_back(std::move(tensor));
                }
            }
        }
        allocate(*bucket);
        buckets_[i] = bucket.get();
        parameters.buckets.push_back(std::move(bucket));
    }
}

/// One factor of one projection of the experts. The intermediate dimension is the output of gate and up, so rows of B,
/// and the input of down, so columns of A: these are complete on their rank, the other factors are summed over ranks.
template <class A>
LoraTensor ExpertParameters<A>::factor(const Architecture& architecture, index_t layer, ops::Projection projection,
                                       ops::LoraFactor which, const ExpertPart& part) const {
    const bool down = projection == ops::Projection::down;
    const bool is_a = which == ops::LoraFactor::a;
    const std::string& name = projection_name(architecture.names, projection);
    LoraTensor tensor;
    tensor.name = architecture.experts_module(layer, name) + (is_a ? ".lora_A" : ".lora_B");
    tensor.projection = projection;
    for (index_t e = 0; e < architecture.experts; ++e) {
        tensor.modules.push_back(architecture.expert_module(layer, e, name));
    }
    tensor.specs = specs_[static_cast<std::size_t>(projection)];
    const index_t in = down ? architecture.expert_intermediate : architecture.hidden;
    const index_t out = down ? architecture.hidden : architecture.expert_intermediate;
    tensor.factor = which;
    tensor.held = part.experts;
    tensor.rows = tensor.local_rows = is_a ? lora_rank_ : out;
    tensor.cols = tensor.local_cols = is_a ? in : lora_rank_;
    if (is_a == down) {
        tensor.sharding = is_a ? Sharding::columns : Sharding::rows;
        tensor.sharded_begin = part.intermediate.begin;
        (is_a ? tensor.local_cols : tensor.local_rows) = part.intermediate.extent;
    }
    return tensor;
}

template <class A>
void ExpertParameters<A>::configure(ops::ExpertConfig& config) const {
    config.skip_lora = lora_rank_ == 0;
    config.lora_rank = lora_rank_;
    config.lora_alpha = 1;  // every adapter has its own scale
    for (std::size_t p = 0; p < specs_.size(); ++p) {
        config.lora_scales[p].resize(static_cast<std::size_t>(experts_.extent));
        std::transform(specs_[p].begin() + experts_.begin, specs_[p].begin() + experts_.end(),
                       config.lora_scales[p].begin(), [](const AdapterSpec& spec) { return spec.scale; });
    }
}

/// Tensors lie in the order of projections, and of each pair of factors one is in either bucket.
template <class A>
ops::ExpertFactors<A> ExpertParameters<A>::views(core::Matrix<A> ParameterBucket<A>::*storage) const {
    ops::ExpertFactors<A> result;
    for (const ops::Projection p : ops::projections) {
        for (ParameterBucket<A>* bucket : buckets_) {
            const LoraTensor& tensor = bucket->tensors[static_cast<std::size_t>(p)];
            auto& pair = result[p];
            (tensor.factor == ops::LoraFactor::a ? pair.a : pair.b) = bucket->view(tensor, bucket->*storage);
        }
    }
    return result;
}

template <class A>
ops::ExpertFactors<const A> ExpertParameters<A>::values() const {
    const ops::ExpertFactors<A> writable = views(&ParameterBucket<A>::values);
    ops::ExpertFactors<const A> result;
    for (const ops::Projection p : ops::projections) {
        result[p] = {writable[p].a, writable[p].b};
    }
    return result;
}

template <class A>
ops::ExpertFactors<A> ExpertParameters<A>::gradients() const {
    return views(&ParameterBucket<A>::gradients);
}

template class ExpertParameters<float>;
template class ExpertParameters<double>;

}  // namespace moesaic::model
