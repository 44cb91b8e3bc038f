// The one linear projection with a low-rank adapter: y = W x + b + s B A x with frozen W and b (Hu et al., "LoRA",
// 2021).
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/gemm.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/weights/weights.hpp"
#include "ops/dropout.hpp"
#include "ops/elementwise.hpp"
#include "ops/frozen_product.hpp"

#include <span>
#include <string>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::Matrix;
using core::MatrixView;

/// What the projections of a model share: settings, and work buffers that grow and are kept.
template <class T>
struct LoraShared {
    const kernels::KernelSet& kernels;
    const LoraSettings& settings;
    ops::FrozenScratch<T> frozen{};
    ops::Dropout dropout{};                      // of the present pass, for this rank's tokens
    std::vector<ops::SplitStorage<T>> inputs{};  // [M, K] each
    Matrix<accumulator_t<T>> wide_dropped{};     // [sum M, K]: inputs of A after dropout, in forward
    Matrix<T> dropped{};                         // [M, K] the same in backward
    Matrix<accumulator_t<T>> grad_dropped{};     // [M, K]
    Matrix<accumulator_t<T>> down_sum{};         // [sum M, R]: products with A or B before they are rounded
    Matrix<T> down{};                            // [M, R]
    Matrix<accumulator_t<T>> back_sum{};         // [M, R]
    Matrix<T> back{};                            // [M, R]
};

/// Where the projections of one layer register their factors. All ranks hold these whole; gradients are partial and are
/// summed over the world.
template <class T>
struct LoraLayer {
    LoraShared<T>& shared;
    ParameterBucket<accumulator_t<T>>& bucket;      ///< to be allocated when all projections of the layer exist
    ops::WeightFormat weights = ops::format_of<T>;  ///< of frozen matrices
};

struct LinearShape {
    index_t out = 0;  ///< N
    index_t in = 0;   ///< K
    bool has_bias = false;
};

/// A replicated frozen projection from K to N features, with an adapter where the settings ask for one.
///
/// The routers behind it choose experts by what it computes, and a choice is not continuous: were inputs rounded to
/// BF16, about one token in a hundred would go elsewhere than in FP32. Forward therefore takes inputs in two BF16
/// parts, and adapters, which are small, in FP32. Gradients have no such jumps and are computed in BF16.
template <class T>
class LoraLinear {
public:
    using A = accumulator_t<T>;

    /// `module` is its name in the checkpoint, for example "model.layers.0.self_attn.q_proj". Keeps references to what
    /// `layer` refers to.
    LoraLinear(std::string module, const LinearShape& shape, LoraTarget target, const LoraLayer<T>& layer);

    /// Reads MODULE.weight [N, K] and, if it has one, MODULE.bias [N].
    void load(const WeightSource<T>& source);
    /// To be called after the factors changed.
    void update_lora();

    [[nodiscard]] index_t out() const noexcept { return weight_.rows(); }
    [[nodiscard]] index_t in() const noexcept { return weight_.cols(); }
    [[nodiscard]] bool is_adapted() const noexcept { return shape_.rank > 0; }

    /// One application: y is overwritten.
    struct Forward {
        const LoraLinear& linear;
        MatrixView<const A> x;  // [M, K]
        MatrixView<A> y;        // [M, N]
    };
    /// Applies projections of one model together, so that small ones share the thread team. Results must not overlap.
    static void forward(std::span<const Forward> batch);
    void forward(MatrixView<const A> x, MatrixView<A> y) const {
        const Forward one{*this, x, y};
        forward({&one, 1});
    }

    /// Given x as in forward, rounded, and dL/dy: accumulates dL/dA and dL/dB, and writes dL/dx, or adds it if
    /// `accumulate`, unless grad_x is empty. x A^T is recomputed, which costs less than keeping it.
    void backward(MatrixView<const T> x,       // [M, K]
                  MatrixView<const T> grad_y,  // [M, N]
                  MatrixView<A> grad_x,        // [M, K] or empty
                  bool accumulate = false) const;

private:
    static void add_adapters(LoraShared<T>& shared, std::span<const Forward> batch);
    void add_bias(MatrixView<A> y) const;
    /// x, or x after dropout in `storage` [M, K].
    template <class S>
    [[nodiscard]] MatrixView<const S> input_of_a(MatrixView<const S> x, S* storage) const;
    void add_dropped(MatrixView<const A> grad_dropped, MatrixView<A> grad_x) const;

    std::string module_;
    LoraShared<T>& shared_;
    ops::PackedWeights weight_;  // [N, K]
    std::vector<A> bias_;        // [N] or empty
    LoraShape shape_;
    ModuleFactors<A> factors_;  // in the layer's bucket
    Matrix<T> a_;               // [R, K] rounded, for backward
    Matrix<T> b_;               // [N, R]
};

}  // namespace moesaic::model
