// Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): keys and values of all heads are expanded from one
// normalised compressed vector per token; the rotated part of keys is shared by the heads and projected directly.
#pragma once

#include "model/mixers/attention_block.hpp"

#include <optional>
#include <vector>

namespace moesaic::model {

template <class T>
class LatentAttention final : public AttentionBlock<T> {
public:
    using A = accumulator_t<T>;

    LatentAttention(const Architecture& architecture, index_t layer, const LoraLayer<T>& lora);

protected:
    std::vector<LoraLinear<T>*> input_projections() override;
    void load_norms(const WeightSource<T>& source) override;
    void project(const ops::Rotation<A>& rotation, MatrixView<const A> input, LayerTape<T>& tape,
                 AttentionScratch<T>& scratch) const override;
    void project_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape, MatrixView<A> grad_input,
                          AttentionScratch<T>& scratch) const override;

private:
    void project_query(const ops::Rotation<A>& rotation, MatrixView<const A> input, LayerTape<T>& tape,
                       AttentionScratch<T>& scratch) const;
    void project_query_backward(const ops::Rotation<A>& rotation, const LayerTape<T>& tape, MatrixView<A> grad_input,
                                AttentionScratch<T>& scratch) const;
    /// Keys and values of all heads from expanded latents [T, heads * (Dn + Dv)] and rotated shared keys [T, Dr].
    void assemble(MatrixView<const A> expanded, MatrixView<const A> shared_key, MatrixView<A> keys,
                  MatrixView<A> values) const;
    /// From gradients of keys and values those of the expanded latents and, summed over heads, of the shared keys.
    void assemble_backward(const AttentionScratch<T>& scratch, MatrixView<T> grad_expanded,
                           MatrixView<A> grad_shared_key) const;
    [[nodiscard]] index_t plain_size() const { return this->shape().head_size - rotated_size_; }

    index_t kv_rank_;
    index_t rotated_size_;                     ///< Dr, the last of the D elements of a head; the first are Dn
    std::optional<LoraLinear<T>> query_down_;  // H to Rq, where queries are compressed
    LoraLinear<T> query_up_;                   // Rq, or H, to [heads * D]
    LoraLinear<T> kv_down_;                    // H to [Rkv + Dr]
    LoraLinear<T> kv_up_;                      // Rkv to [heads * (Dn + Dv)]
    ops::HeadTransform<T> query_norm_;         // of [Rq]
    ops::HeadTransform<T> query_rotation_;
    ops::HeadTransform<T> kv_norm_;  // of [Rkv]
};

}  // namespace moesaic::model
