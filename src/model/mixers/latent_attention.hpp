// Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): keys and values of all heads are expanded from one
// normalised compressed vector per token; the rotated part of keys is shared by the heads and projected directly.
#pragma once

#include "model/mixers/softmax_attention.hpp"

#include <memory>
#include <vector>

namespace moesaic::model {

/// The projections of the output, of queries (compressed first, if they are), of compressed keys and values with the
/// rotated part of keys, and of keys and values from those; and the norms of what is compressed.
[[nodiscard]] BlockPlan plan_latent_attention(const Architecture& architecture, index_t layer,
                                              const LoraSettings& lora);

/// Dr of the D elements of a head, the last ones, are rotated; the first are Dn. Queries have compressed size Rq, keys
/// and values Rkv.
template <class Scalar>
class LatentAttention final : public SoftmaxAttention<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    LatentAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                    const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace);
    [[nodiscard]] std::unique_ptr<BlockState<Scalar>> make_state() const override { return std::make_unique<State>(); }

private:
    struct State final : SoftmaxAttentionState<Scalar> {
        ops::HeadTape<Scalar> query_norm;  // of the compressed vectors
        ops::HeadTape<Scalar> kv_norm;
        Matrix<Scalar> query_latent;  // [T, Rq] compressed and normalised
        Matrix<Scalar> kv_latent;     // [T, Rkv]
    };

    [[nodiscard]] std::vector<MatrixView<Sum>> tensors() override;
    void project(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input,
                 SoftmaxAttentionState<Scalar>& state) override;
    void project_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input,
                          const SoftmaxAttentionState<Scalar>& state, MatrixView<Sum> grad_input) override;
    void project_query(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, State& state);
    void project_query_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const State& state,
                                MatrixView<Sum> grad_input);
    /// Keys and values of all heads from expanded latents [T, heads * (Dn + Dv)] and rotated shared keys [T, Dr].
    void assemble(MatrixView<const Sum> expanded, MatrixView<const Sum> shared_key, MatrixView<Sum> keys,
                  MatrixView<Sum> values) const;
    /// From gradients of keys and values those of the expanded latents and, summed over heads, of the shared keys.
    void assemble_backward(MatrixView<Scalar> grad_expanded, MatrixView<Sum> grad_shared_key) const;

    [[nodiscard]] index_t plain_size() const { return this->shape().head_size - rotated_size_; }
    [[nodiscard]] bool compresses_queries() const { return query_rank_ > 0; }
    [[nodiscard]] const ops::LoraLinear<Scalar>& query_down() const { return this->linear("q_a_proj"); }  // H to Rq
    [[nodiscard]] const ops::LoraLinear<Scalar>& query_up() const;  // Rq, or H, to [heads * D]
    [[nodiscard]] const ops::LoraLinear<Scalar>& kv_down() const {  // H to [Rkv + Dr]
        return this->linear("kv_a_proj_with_mqa");
    }
    [[nodiscard]] const ops::LoraLinear<Scalar>& kv_up() const {  // Rkv to [heads * (Dn + Dv)]
        return this->linear("kv_b_proj");
    }

    index_t query_rank_;  ///< Rq; 0: queries are not compressed
    index_t kv_rank_;     ///< Rkv
    index_t rotated_size_;
    ops::HeadTransform<Scalar> query_norm_;  // of [Rq]
    ops::HeadTransform<Scalar> query_rotation_;
    ops::HeadTransform<Scalar> kv_norm_;  // of [Rkv]
};

}  // namespace moesaic::model
