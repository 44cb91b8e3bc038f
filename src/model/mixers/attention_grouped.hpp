// Grouped-query attention: query, key and value are projections of the input.
#pragma once

#include "model/mixers/attention_block.hpp"

#include <vector>

namespace moesaic::model {

template <class T>
class GroupedAttention final : public AttentionBlock<T> {
public:
    using A = accumulator_t<T>;

    GroupedAttention(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora);

protected:
    std::vector<LoraLinear<T>*> input_projections() override {
        return {&query_projection_, &key_projection_, &value_projection_};
    }
    void load_norms(const WeightSource<T>& source) override;
    void project(const ops::Rotation<A>& rotation, MatrixView<const A> input, LayerTape<T>& tape,
                 AttentionScratch<T>& scratch) const override;
    void project_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape, MatrixView<A> grad_input,
                          AttentionScratch<T>& scratch) const override;

private:
    LoraLinear<T> query_projection_;  // to [heads * D]
    LoraLinear<T> key_projection_;    // to [kv_heads * D]
    LoraLinear<T> value_projection_;  // to [kv_heads * D]
    ops::HeadTransform<T> query_transform_;
    ops::HeadTransform<T> key_transform_;
    ops::HeadTransform<T> value_transform_;
};

}  // namespace moesaic::model
