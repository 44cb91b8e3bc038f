// Grouped-query attention: query, key and value are projections of the input.
#pragma once

#include "model/mixers/softmax_attention.hpp"

#include <memory>
#include <vector>

namespace moesaic::model {

/// The projections of output, query, key and value, and the norms of the latter two if there are some.
[[nodiscard]] BlockPlan plan_grouped_attention(const Architecture& architecture, index_t layer,
                                               const LoraSettings& lora);

template <class T>
class GroupedAttention final : public SoftmaxAttention<T> {
public:
    using A = accumulator_t<T>;

    GroupedAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                     const LoraParameters<A>& parameters, Workspace<T>& workspace);
    [[nodiscard]] std::unique_ptr<BlockState<T>> make_state() const override { return std::make_unique<State>(); }

private:
    struct State final : SoftmaxAttentionState<T> {
        ops::HeadTape<T> query_heads;  // of what is normalised or bounded
        ops::HeadTape<T> key_heads;
        ops::HeadTape<T> value_heads;
    };
    enum Index : std::size_t { output_projection, query_projection, key_projection, value_projection };

    [[nodiscard]] std::vector<MatrixView<A>> tensors() override;
    void project(const Pass<T>& pass, MatrixView<const A> input, SoftmaxAttentionState<T>& state) override;
    void project_backward(const Pass<T>& pass, MatrixView<const T> input, const SoftmaxAttentionState<T>& state,
                          MatrixView<A> grad_input) override;

    ops::HeadTransform<T> query_transform_;
    ops::HeadTransform<T> key_transform_;
    ops::HeadTransform<T> value_transform_;
};

}  // namespace moesaic::model
