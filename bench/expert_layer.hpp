// An expert layer with random weights and LoRA factors, as benchmarks use it.
#pragma once

#include "bench/routing.hpp"
#include "bench/shapes.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/expert_backend.hpp"

#include <memory>

namespace moesaic::bench {

using core::accumulator_t;
using core::Matrix;
using core::MatrixView;

struct LayerSettings {
    LayerShape shape;
    index_t max_tokens = 0;
    index_t lora_rank = 0;  ///< 0: frozen experts
    ops::Activations activations = ops::Activations::retain;
    std::uint64_t seed = 0;
    ops::WeightFormat weights = ops::WeightFormat::bf16;

    [[nodiscard]] ops::ExpertConfig config() const;
};

/// Factors are BF16 values, so that layers of other types compute the same function. Expert e has the same weights
/// however many experts a layer has. Like a layer of the decoder it keeps of a forward what its backward needs, and
/// refers to the inputs.
template <class Scalar>
class ExpertLayer {
public:
    using Sum = accumulator_t<Scalar>;

    /// `kernels` must outlive the object.
    ExpertLayer(const LayerSettings& settings, std::shared_ptr<ops::ExpertWorkspace<Scalar>> workspace,
                const kernels::KernelSet& kernels);

    [[nodiscard]] const ops::ExpertBackend<Scalar>& experts() const noexcept { return *experts_; }
    /// ops::ExpertBackend::forward, kept for the backward: inputs must stay until then.
    MatrixView<const Sum> forward(MatrixView<const Scalar> hidden,  // [T, H]
                                  const Routes& routes);
    /// ops::ExpertBackend::backward of the latest forward.
    ops::ExpertGradients<Scalar> backward(MatrixView<const Scalar> grad_output);  // [T, H]
    /// Bytes that are kept between forward and backward, those of the inputs included.
    [[nodiscard]] std::size_t kept_bytes() const noexcept;
    /// Accumulated by backward passes; empty matrices for frozen experts.
    [[nodiscard]] const ops::ExpertFactors<Sum>& gradients() const noexcept { return gradients_; }
    void clear_gradients();

private:
    struct Storage {
        Matrix<Sum> a;
        Matrix<Sum> b;
    };

    void make_lora(const LayerSettings& settings);

    std::unique_ptr<ops::ExpertBackend<Scalar>> experts_;
    ops::SavedExperts<Scalar> saved_;
    std::array<Storage, ops::projections.size()> factor_storage_;
    std::array<Storage, ops::projections.size()> gradient_storage_;
    ops::ExpertFactors<Sum> gradients_;
};

/// Bytes of the frozen weights of a layer.
[[nodiscard]] double weight_bytes(const LayerShape& shape, ops::WeightFormat format);

/// Bytes that a tape keeps of a forward of such a layer for its backward, those of the inputs included.
[[nodiscard]] double kept_bytes(const ops::ExpertConfig& config, index_t tokens, const kernels::KernelSet& kernels);

/// All memory that `layers` layers with a common workspace need, to refuse in time what does not fit.
[[nodiscard]] index_t memory_of_layers(const LayerSettings& settings, index_t layers,
                                       const kernels::KernelSet& kernels);

}  // namespace moesaic::bench
