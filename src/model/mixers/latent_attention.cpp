#include "model/mixers/latent_attention.hpp"

#include "ops/elementwise.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

using core::bf16;

/// The norm of a compressed vector. Its epsilon does not follow the configuration: transformers leaves it at the
/// default of its norm.
ops::HeadTransformSettings latent_norm(index_t size) {
    constexpr double epsilon = 1e-6;
    return {ops::HeadNorm::all_heads, size, epsilon, 0, false, {}};
}

const char* query_up_name(bool compressed) {
    return compressed ? "q_b_proj" : "q_proj";
}

}  // namespace

BlockPlan plan_latent_attention(const Architecture& architecture, index_t layer, const LoraSettings& lora) {
    const AttentionSettings& attention = architecture.attention;
    const std::string prefix = attention_prefix(architecture, layer);
    const bool compressed = attention.query_rank > 0;
    const index_t queries = attention.heads * attention.head_size;
    const index_t plain = attention.head_size - attention.rope.size;
    BlockPlan plan = plan_softmax_attention(architecture, layer, lora);
    plan.kind = "latent attention";
    const auto project = [&](const char* name, index_t out, index_t in, bool has_bias) {
        plan.projections.push_back(plan_projection(prefix + name, out, in, LoraTarget::attention, lora, has_bias));
    };
    if (compressed) {
        project("q_a_proj", attention.query_rank, architecture.hidden, attention.input_bias);
        plan.tensors.push_back({prefix + "q_a_layernorm.weight", TensorRole::scale, 1, attention.query_rank});
    }
    project(query_up_name(compressed), queries, compressed ? attention.query_rank : architecture.hidden, false);
    project("kv_a_proj_with_mqa", attention.kv_rank + attention.rope.size, architecture.hidden, attention.input_bias);
    project("kv_b_proj", attention.heads * (plain + attention.value_size), attention.kv_rank, false);
    plan.tensors.push_back({prefix + "kv_a_layernorm.weight", TensorRole::scale, 1, attention.kv_rank});
    if (compressed) {
        plan.add_linears({"q_a_proj"}, lora);
    }
    for (const char* name : {query_up_name(compressed), "kv_a_proj_with_mqa", "kv_b_proj"}) {
        plan.add_linears({name}, lora);
    }
    const index_t latent = attention.kv_rank + attention.rope.size;
    const index_t expanded = attention.heads * (plain + attention.value_size);
    const index_t largest_latent = std::max(attention.query_rank, latent);
    const auto add = [&](std::vector<ops::BufferPlan>& buffers, const char* name, ops::Element element, index_t columns,
                         bool for_backward = false) {
        buffers.push_back({name, ops::Rows::own, element, columns, for_backward});
    };
    add(plan.state, "query_latent", ops::Element::scalar, attention.query_rank);
    add(plan.state, "kv_latent", ops::Element::scalar, attention.kv_rank);
    add(plan.scratch, "attention.latent", ops::Element::sum, largest_latent);
    add(plan.scratch, "attention.expanded", ops::Element::sum, expanded);
    add(plan.scratch, "attention.grad_heads", ops::Element::scalar, queries, true);
    add(plan.scratch, "attention.grad_latent", ops::Element::scalar, largest_latent, true);
    add(plan.scratch, "attention.grad_expanded", ops::Element::scalar, expanded, true);
    for (const index_t size : {attention.query_rank, attention.kv_rank}) {
        if (size > 0) {
            plan_head_transform(latent_norm(size), size, plan.state, plan.scratch);
        }
    }
    return plan;
}

template <class Scalar>
LatentAttention<Scalar>::LatentAttention(const Architecture& architecture, index_t layer, BlockPlan plan,
                                         const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace)
    : SoftmaxAttention<Scalar>(architecture, layer, std::move(plan), parameters, workspace),
      query_rank_(architecture.attention.query_rank),
      kv_rank_(architecture.attention.kv_rank),
      rotated_size_(architecture.attention.rope.size),
      query_norm_(workspace.kernels, latent_norm(query_rank_)),
      query_rotation_(workspace.kernels, {.rotates = true, .part = {this->shape().head_size, plain_size()}}),
      kv_norm_(workspace.kernels, latent_norm(kv_rank_)) {}

template <class Scalar>
std::vector<MatrixView<accumulator_t<Scalar>>> LatentAttention<Scalar>::tensors() {
    std::vector<MatrixView<Sum>> all;
    for (ops::HeadTransform<Scalar>* norm : {&query_norm_, &kv_norm_}) {
        if (!norm->weight().empty()) {
            all.push_back({norm->weight().data(), 1, std::ssize(norm->weight())});
        }
    }
    return all;
}

template <class Scalar>
const ops::LoraLinear<Scalar>& LatentAttention<Scalar>::query_up() const {
    return this->linear(query_up_name(compresses_queries()));
}

template <class Scalar>
void LatentAttention<Scalar>::project_query(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& x, State& kept) {
    AttentionScratch<Scalar>& scratch = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    scratch.query.resize(pass.rows(), query_up().out());
    if (compresses_queries()) {
        scratch.latent.resize(pass.rows(), query_down().out());
        this->apply(pass, query_down(), x, scratch.latent);
        kept.query_latent.resize(pass.rows(), query_down().out());
        query_norm_.forward(rotation, scratch.latent, kept.query_norm, kept.query_latent);
        this->apply(pass, query_up(), {kept.query_latent, scratch.latent}, scratch.query);
    } else {
        this->apply(pass, query_up(), x, scratch.query);
    }
    ops::HeadTape<Scalar> nothing;  // a rotation keeps nothing
    query_rotation_.forward(rotation, scratch.query, nothing, kept.query);
}

template <class Scalar>
void LatentAttention<Scalar>::assemble(MatrixView<const Sum> expanded, MatrixView<const Sum> shared_key,
                                       MatrixView<Sum> keys, MatrixView<Sum> values) const {
    const ops::AttentionShape& shape = this->shape();
    const index_t plain = plain_size();
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < expanded.rows(); ++row) {
        const Sum* in = expanded[row];
        for (index_t head = 0; head < shape.heads; ++head, in += plain + shape.value_size) {
            Sum* const key = keys[row] + head * shape.head_size;
            std::copy_n(in, plain, key);
            std::copy_n(shared_key[row], rotated_size_, key + plain);
            std::copy_n(in + plain, shape.value_size, values[row] + head * shape.value_size);
        }
    }
}

template <class Scalar>
void LatentAttention<Scalar>::assemble_backward(MatrixView<Scalar> grad_expanded,
                                                MatrixView<Sum> grad_shared_key) const {
    const AttentionScratch<Scalar>& scratch = this->scratch();
    const kernels::ElementwiseKernels<Scalar>& row_kernels = this->kernels().template elementwise<Scalar>();
    const ops::AttentionShape& shape = this->shape();
    const index_t plain = plain_size();
    const MatrixView<const Sum> grad_keys = scratch.key;
    const MatrixView<const Sum> grad_values = scratch.value;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_expanded.rows(); ++row) {
        Sum* const shared = grad_shared_key[row];
        std::fill_n(shared, rotated_size_, Sum(0));
        Scalar* out = grad_expanded[row];
        for (index_t head = 0; head < shape.heads; ++head, out += plain + shape.value_size) {
            const Sum* const key = grad_keys[row] + head * shape.head_size;
            row_kernels.narrow(plain, key, out);
            row_kernels.add(rotated_size_, key + plain, shared, shared);
            row_kernels.narrow(shape.value_size, grad_values[row] + head * shape.value_size, out + plain);
        }
    }
}

template <class Scalar>
void LatentAttention<Scalar>::project(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& x,
                                      SoftmaxAttentionState<Scalar>& state) {
    auto& kept = static_cast<State&>(state);
    AttentionScratch<Scalar>& scratch = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    const index_t rows = pass.rows();
    project_query(pass, x, kept);
    scratch.latent.resize(rows, kv_down().out());
    this->apply(pass, kv_down(), x, scratch.latent);
    kept.kv_latent.resize(rows, kv_rank_);
    const MatrixView<Sum> latent = scratch.latent;
    kv_norm_.forward(rotation, latent.columns(0, kv_rank_), kept.kv_norm, kept.kv_latent);
    scratch.expanded.resize(rows, kv_up().out());
    this->apply(pass, kv_up(), {kept.kv_latent, latent.columns(0, kv_rank_)}, scratch.expanded);
    const MatrixView<Sum> shared_key = latent.columns(kv_rank_, rotated_size_);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < rows; ++row) {
        rotation.table.rotate(this->kernels().template elementwise<Sum>(), {rotated_size_, 0}, shared_key.row(row),
                              rotation.positions[static_cast<std::size_t>(row)]);
    }
    scratch.key.resize(rows, kept.key.cols());
    scratch.value.resize(rows, kept.value.cols());
    assemble(scratch.expanded, shared_key, scratch.key, scratch.value);
    ops::convert<Scalar>(this->kernels().template elementwise<Scalar>(), scratch.key, kept.key.view());
    ops::convert<Scalar>(this->kernels().template elementwise<Scalar>(), scratch.value, kept.value.view());
}

template <class Scalar>
void LatentAttention<Scalar>::project_query_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> x,
                                                     const State& kept, MatrixView<Sum> grad_input) {
    AttentionScratch<Scalar>& scratch = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    scratch.grad_heads.resize(x.rows(), query_up().out());
    query_rotation_.backward(rotation, {}, scratch.query, scratch.attended, scratch.grad_heads);
    if (!compresses_queries()) {
        this->apply_backward(pass, query_up(), x, scratch.grad_heads, grad_input);
        return;
    }
    scratch.latent.resize(x.rows(), query_down().out());
    this->apply_backward(pass, query_up(), kept.query_latent, scratch.grad_heads, scratch.latent);
    scratch.grad_latent.resize(x.rows(), query_down().out());
    query_norm_.backward(rotation, kept.query_norm, scratch.latent, scratch.attended, scratch.grad_latent);
    this->apply_backward(pass, query_down(), x, scratch.grad_latent, grad_input);
}

template <class Scalar>
void LatentAttention<Scalar>::project_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> x,
                                               const SoftmaxAttentionState<Scalar>& state, MatrixView<Sum> grad_input) {
    const auto& kept = static_cast<const State&>(state);
    AttentionScratch<Scalar>& scratch = this->scratch();
    const ops::Rotation<Sum> rotation = pass.rotation();
    project_query_backward(pass, x, kept, grad_input);
    scratch.grad_expanded.resize(x.rows(), kv_up().out());
    scratch.latent.resize(x.rows(), kv_down().out());
    scratch.grad_latent.resize(x.rows(), kv_down().out());
    const MatrixView<Sum> latent = scratch.latent;
    const MatrixView<Scalar> grad_latent = scratch.grad_latent;
    const MatrixView<Sum> shared_key = latent.columns(kv_rank_, rotated_size_);
    assemble_backward(scratch.grad_expanded, shared_key);
    this->apply_backward(pass, kv_up(), kept.kv_latent, scratch.grad_expanded, latent.columns(0, kv_rank_));
    kv_norm_.backward(rotation, kept.kv_norm, latent.columns(0, kv_rank_), scratch.attended,
                      grad_latent.columns(0, kv_rank_));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        rotation.table.rotate_back(this->kernels().template elementwise<Sum>(), {rotated_size_, 0}, shared_key.row(row),
                                   rotation.positions[static_cast<std::size_t>(row)]);
        this->kernels().template elementwise<Scalar>().narrow(rotated_size_, shared_key[row],
                                                              grad_latent[row] + kv_rank_);
    }
    this->apply_backward(pass, kv_down(), x, scratch.grad_latent, grad_input, true);
}

template class LatentAttention<bf16>;
template class LatentAttention<float>;
template class LatentAttention<double>;

}  // namespace moesaic::model
