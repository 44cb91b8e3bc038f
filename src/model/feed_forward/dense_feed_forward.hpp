// The feed-forward network of a dense layer: one gated network, replicated.
#pragma once

#include "model/block.hpp"
#include "model/feed_forward/gated_mlp.hpp"

#include <memory>
#include <utility>
#include <vector>

namespace moesaic::model {

template <class T>
class DenseFeedForward final : public Block<T> {
public:
    using A = accumulator_t<T>;

    DenseFeedForward(BlockPlan plan, ops::Activations activations, const LoraParameters<A>& parameters,
                     Workspace<T>& workspace)
        : Block<T>(std::move(plan), parameters, workspace), mlp_(activations, workspace) {}

    [[nodiscard]] std::unique_ptr<BlockState<T>> make_state() const override { return std::make_unique<State>(); }
    void forward(const Pass<T>& pass, const BlockInput<T>& input, BlockState<T>& state, MatrixView<A> output,
                 bool) override {
        mlp_.forward(pass, projections(), input.wide, static_cast<State&>(state).mlp, output);
    }
    void backward(const Pass<T>& pass, MatrixView<const T> input, const BlockState<T>& state,
                  MatrixView<const A> grad_output, std::span<const A>, MatrixView<A> grad_input) override {
        mlp_.backward(pass, projections(), input, static_cast<const State&>(state).mlp, grad_output, grad_input);
    }

private:
    struct State final : BlockState<T> {
        GatedMlpState<T> mlp;
    };

    [[nodiscard]] std::vector<MatrixView<A>> tensors() override { return {}; }
    [[nodiscard]] std::span<const ops::LoraLinear<T>, 3> projections() const {
        return this->linears().template first<3>();
    }

    GatedMlp<T> mlp_;
};

}  // namespace moesaic::model
