// The trainable parameters of the routed experts of one layer.
#pragma once

#include "model/architecture.hpp"
#include "model/expert_backend.hpp"
#include "model/lora_parameters.hpp"
#include "mpi/process_grid.hpp"

#include <array>

namespace moesaic::model {

/// Name of a projection as it stands in checkpoints and adapters.
[[nodiscard]] const std::string& projection_name(const TensorNames& names, Projection projection);

/// Declares the factors of all experts in two buckets: factors of which every rank of the tensor group has a slice, and
/// those that all have whole. All adapters of the layer are padded to one rank.
template <class A>
class ExpertParameters {
public:
    /// `slice` is this rank's part of the intermediate dimension. No bucket is added if no expert is adapted.
    ExpertParameters(const Architecture& architecture, index_t layer, mpi::Slice slice, LoraParameters<A>& parameters);

    [[nodiscard]] index_t rank() const noexcept { return rank_; }
    /// Sets rank and scales of the adapters.
    void configure(ExpertConfig& config) const;
    [[nodiscard]] ExpertFactors<const A> values() const;
    [[nodiscard]] ExpertFactors<A> gradients() const;

private:
    [[nodiscard]] LoraTensor factor(const Architecture& architecture, index_t layer, Projection projection,
                                    LoraFactor which, mpi::Slice slice) const;
    [[nodiscard]] ExpertFactors<A> views(core::Matrix<A> ParameterBucket<A>::*storage) const;

    index_t rank_ = 0;
    std::array<std::vector<LoraShape>, projections.size()> shapes_;  // [E] each
    std::array<ParameterBucket<A>*, 2> buckets_{};                   // whole, sharded
};

}  // namespace moesaic::model
