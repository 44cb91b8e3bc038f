// The trainable parameters of the routed experts of one layer.
#pragma once

#include "core/slice.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_backend.hpp"

#include <array>

namespace moesaic::model {

/// Name of a projection as it stands in checkpoints and adapters.
[[nodiscard]] const std::string& projection_name(const TensorNames& names, ops::Projection projection);

/// What a rank holds of a layer's routed experts: some of them, and of each a slice of the intermediate dimension.
struct ExpertPart {
    core::Slice experts;
    core::Slice intermediate;

    ExpertPart(const Architecture& architecture, const mpi::ProcessGrid& grid);
};

/// Declares the factors of a rank's experts in two buckets: factors of which every rank of the tensor group has a
/// slice, and those that all of them have whole. All adapters of the layer, on whatever rank, are padded to one rank.
template <class A>
class ExpertParameters {
public:
    /// No bucket is added if no expert of the layer is adapted.
    ExpertParameters(const Architecture& architecture, index_t layer, const ExpertPart& part,
                     LoraParameters<A>& parameters);

    [[nodiscard]] index_t lora_rank() const noexcept { return lora_rank_; }
    /// Sets rank and scales of the adapters.
    void configure(ops::ExpertConfig& config) const;
    [[nodiscard]] ops::ExpertFactors<const A> values() const;
    [[nodiscard]] ops::ExpertFactors<A> gradients() const;

private:
    [[nodiscard]] LoraTensor factor(const Architecture& architecture, index_t layer, ops::Projection projection,
                                    ops::LoraFactor which, const ExpertPart& part) const;
    [[nodiscard]] ops::ExpertFactors<A> views(core::Matrix<A> ParameterBucket<A>::*storage) const;

    index_t lora_rank_ = 0;
    core::Slice experts_;
    std::array<std::vector<AdapterSpec>, ops::projections.size()> specs_;  // [E] each, of all experts of the layer
    std::array<ParameterBucket<A>*, 2> buckets_{};                         // whole, sharded
};

}  // namespace moesaic::model
