// The feed-forward network of a dense layer: one gated network, replicated.
#pragma once

#include "model/block.hpp"
#include "model/feed_forward/gated_mlp.hpp"

#include <memory>
#include <utility>
#include <vector>

namespace moesaic::model {

template <class Scalar>
class DenseFeedForward final : public Block<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    DenseFeedForward(BlockPlan plan, ops::Activations activations, const LoraParameters<Sum>& parameters,
                     Workspace<Scalar>& workspace)
        : Block<Scalar>(std::move(plan), parameters, workspace), mlp_(activations, workspace) {}

    [[nodiscard]] std::unique_ptr<BlockState<Scalar>> make_state() const override { return std::make_unique<State>(); }
    void forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, BlockState<Scalar>& state,
                 MatrixView<Sum> output, bool) override {
        mlp_.forward(pass, projections(), input, static_cast<State&>(state).mlp, output);
    }
    void backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const BlockState<Scalar>& state,
                  MatrixView<const Sum> grad_output, std::span<const Sum>, MatrixView<Sum> grad_input) override {
        mlp_.backward(pass, projections(), input, static_cast<const State&>(state).mlp, grad_output, grad_input);
    }

private:
    struct State final : BlockState<Scalar> {
        GatedMlpState<Scalar> mlp;
    };

    [[nodiscard]] std::vector<MatrixView<Sum>> tensors() override { return {}; }
    [[nodiscard]] std::span<const ops::LoraLinear<Scalar>, 3> projections() const {
        return this->linears().template first<3>();
    }

    GatedMlp<Scalar> mlp_;
};

}  // namespace moesaic::model
