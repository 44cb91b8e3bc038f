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
#include <string_view>
#include <vector>

namespace moesaic::model {

/// Where a router sent the rows of a pass.
template <class Sum>
struct Routing {
    MatrixView<const std::int32_t> expert_ids;  // [T, K]
    MatrixView<const Sum> probabilities;        // [T, E] softmax of the logits; empty unless it is wanted
};

/// What a block keeps of a forward for its backward; the block that made it knows what is in it.
template <class Scalar>
struct BlockState {
    BlockState() = default;
    BlockState(const BlockState&) = delete;
    BlockState& operator=(const BlockState&) = delete;
    virtual ~BlockState() = default;
    /// Of a router; nothing in other blocks.
    [[nodiscard]] virtual const Routing<accumulator_t<Scalar>>* routing() const noexcept { return nullptr; }
};

template <class Scalar>
struct Workspace;  // model/workspace.hpp

template <class Scalar>
class Block {
public:
    using Sum = accumulator_t<Scalar>;

    virtual ~Block() = default;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    /// Reads the frozen weights that its plan names, of routed experts this rank's slices of its own.
    virtual void load(const WeightSource<Scalar>& source);
    /// To be called after the LoRA matrices changed.
    virtual void update_lora();
    [[nodiscard]] bool is_trainable() const noexcept { return plan_.is_trainable(); }
    /// The norm before the block, which is not a part of it.
    [[nodiscard]] const TensorPlan& norm() const noexcept { return plan_.norm; }

    [[nodiscard]] virtual std::unique_ptr<BlockState<Scalar>> make_state() const = 0;
    /// Whether forward reads its input as it was before it was rounded.
    [[nodiscard]] virtual bool reads_exact_input() const { return kernels().template operand_parts<Scalar>() == 2; }
    /// Writes output [T, H], unless it has no columns, and `state`, which this block or one of its class made. `input`
    /// [T, H] are the normalised rows of the stream. A backward may follow if the forward is to `keep` what that needs.
    /// Collective over the replica for routed experts.
    virtual void forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, BlockState<Scalar>& state,
                         MatrixView<Sum> output, bool keep) = 0;
    /// Accumulates LoRA gradients and overwrites grad_input [T, H], unless it has no columns; `input` [T, H] is the
    /// rounded one of the forward. `grad_probabilities` [E], or empty, is what a router's probabilities of every row
    /// have as gradient besides. Collective as the forward.
    virtual void backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const BlockState<Scalar>& state,
                          MatrixView<const Sum> grad_output, std::span<const Sum> grad_probabilities,
                          MatrixView<Sum> grad_input) = 0;

protected:
    /// Makes the projections of the plan that are not routed. References must outlive the object.
    Block(BlockPlan plan, const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace);

    /// Where the tensors of the plan are kept, in its order.
    [[nodiscard]] virtual std::vector<MatrixView<Sum>> tensors() = 0;

    [[nodiscard]] const BlockPlan& plan() const noexcept { return plan_; }
    [[nodiscard]] Workspace<Scalar>& workspace() const noexcept { return workspace_; }
    [[nodiscard]] const kernels::KernelSet& kernels() const noexcept;
    /// y [T, out] = the projection of x [T, in] in this pass.
    void apply(const Pass<Scalar>& pass, const ops::LoraLinear<Scalar>& linear, const ops::RoundedRows<Scalar>& x,
               MatrixView<Sum> y) const;
    /// Accumulates LoRA gradients, given x, rounded, and grad_y; writes grad_x, or adds to it, unless it is empty.
    void apply_backward(const Pass<Scalar>& pass, const ops::LoraLinear<Scalar>& linear, MatrixView<const Scalar> x,
                        MatrixView<const Scalar> grad_y, MatrixView<Sum> grad_x, bool accumulate = false) const;
    /// A projection that is not routed, by the last part of its module's name.
    [[nodiscard]] const ops::LoraLinear<Scalar>& linear(std::string_view projection) const {
        return linears_[plan_.index_of(projection)];
    }
    /// All of them, in the plan's order.
    [[nodiscard]] std::span<const ops::LoraLinear<Scalar>> linears() const noexcept { return linears_; }

private:
    BlockPlan plan_;
    Workspace<Scalar>& workspace_;
    std::vector<ops::LoraLinear<Scalar>> linears_;
};

}  // namespace moesaic::model
