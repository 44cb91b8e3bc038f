// A block of the residual stream: what turns normalised rows into what is added to the stream. Token mixers (attention)
// let rows see each other, feed-forward networks work row by row.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/layer_plan.hpp"
#include "model/pass.hpp"
#include "model/weights/weights.hpp"
#include "ops/lora_linear.hpp"

#include <memory>
#include <span>
#include <vector>

namespace moesaic::model {

/// Where a router sent the rows of a pass.
template <class A>
struct Routing {
    MatrixView<const std::int32_t> expert_ids;  // [T, K]
    MatrixView<const A> probabilities;          // [T, E] softmax of the logits; empty unless it is wanted
};

/// What a block keeps of a forward for its backward; the block that made it knows what is in it.
template <class T>
struct BlockState {
    BlockState() = default;
    BlockState(const BlockState&) = delete;
    BlockState& operator=(const BlockState&) = delete;
    virtual ~BlockState() = default;
    /// Of a router; nothing in other blocks.
    [[nodiscard]] virtual const Routing<accumulator_t<T>>* routing() const noexcept { return nullptr; }
};

/// The normalised rows of the stream, and the same rounded to T. The tape keeps the latter.
template <class T>
struct BlockInput {
    MatrixView<const accumulator_t<T>> wide;  // [T, H]
    MatrixView<const T> rounded;              // [T, H]
};

template <class T>
struct Workspace;  // model/workspace.hpp

template <class T>
class Block {
public:
    using A = accumulator_t<T>;

    virtual ~Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    /// Reads the frozen weights that its plan names, of routed experts this rank's slices of its own.
    virtual void load(const WeightSource<T>& source);
    /// To be called after the factors changed.
    virtual void update_lora();
    [[nodiscard]] bool is_trainable() const noexcept { return plan_.is_trainable(); }

    [[nodiscard]] virtual std::unique_ptr<BlockState<T>> make_state() const = 0;
    /// Writes output [T, H], and `state`, which this block or one of its class made. A backward may follow if the
    /// forward is to `keep` what that needs. Collective over the replica for routed experts.
    virtual void forward(const Pass<T>& pass, const BlockInput<T>& input, BlockState<T>& state, MatrixView<A> output,
                         bool keep) = 0;
    /// Accumulates LoRA gradients and overwrites grad_input [T, H], unless it has no columns; `input` [T, H] is the
    /// rounded one of the forward. `grad_probabilities` [E], or empty, is what a router's probabilities of every row
    /// have as gradient besides. Collective as the forward.
    virtual void backward(const Pass<T>& pass, MatrixView<const T> input, const BlockState<T>& state,
                          MatrixView<const A> grad_output, std::span<const A> grad_probabilities,
                          MatrixView<A> grad_input) = 0;

protected:
    /// Makes the projections of the plan that are not routed. References must outlive the object.
    Block(BlockPlan plan, const LoraParameters<A>& parameters, Workspace<T>& workspace);

    /// Where the tensors of the plan are kept, in its order.
    [[nodiscard]] virtual std::vector<MatrixView<A>> tensors() = 0;

    [[nodiscard]] const BlockPlan& plan() const noexcept { return plan_; }
    [[nodiscard]] Workspace<T>& workspace() const noexcept { return workspace_; }
    [[nodiscard]] const kernels::KernelSet& kernels() const noexcept;
    /// y [T, N] = the projection of x [T, K] in this pass.
    void apply(const Pass<T>& pass, const ops::LoraLinear<T>& linear, MatrixView<const A> x, MatrixView<A> y) const;
    /// Accumulates LoRA gradients, given x, rounded, and grad_y; writes grad_x, or adds to it, unless it is empty.
    void apply_backward(const Pass<T>& pass, const ops::LoraLinear<T>& linear, MatrixView<const T> x,
                        MatrixView<const T> grad_y, MatrixView<A> grad_x, bool accumulate = false) const;
    /// The projections that are not routed, in the plan's order.
    [[nodiscard]] const ops::LoraLinear<T>& linear(std::size_t index) const { return linears_[index]; }
    [[nodiscard]] std::span<const ops::LoraLinear<T>> linears() const noexcept { return linears_; }

private:
    BlockPlan plan_;
    Workspace<T>& workspace_;
    std::vector<ops::LoraLinear<T>> linears_;
};

}  // namespace moesaic::model
