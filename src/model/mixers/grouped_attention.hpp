// Grouped-query attention: query, key and value are projections of the input.
#pragma once

#include "model/mixers/softmax_attention.hpp"

#include <memory>
#include <vector>

namespace moesaic::model {

/// The projections of output, query, key and value, and the norms of the latter two if there are some.
[[nodiscard]] BlockPlan plan_grouped_attention(const Architecture& architecture, index_t layer,
                                               const LoraSettings& lora);

template <class Scalar>
class GroupedAttention final : public SoftmaxAttention<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    GroupedAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                     const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace);
    [[nodiscard]] std::unique_ptr<BlockState<Scalar>> make_state() const override { return std::make_unique<State>(); }

private:
    struct State final : SoftmaxAttentionState<Scalar> {
        ops::HeadTape<Scalar> query_heads;  // of what is normalised or bounded
        ops::HeadTape<Scalar> key_heads;
        ops::HeadTape<Scalar> value_heads;
    };

    [[nodiscard]] std::vector<MatrixView<Sum>> tensors() override;
    void project(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input,
                 SoftmaxAttentionState<Scalar>& state) override;
    void project_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input,
                          const SoftmaxAttentionState<Scalar>& state, MatrixView<Sum> grad_input) override;

    ops::HeadTransform<Scalar> query_transform_;
    ops::HeadTransform<Scalar> key_transform_;
    ops::HeadTransform<Scalar> value_transform_;
};

}  // namespace moesaic::model
