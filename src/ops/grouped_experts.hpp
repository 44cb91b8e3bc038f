// The routed experts of a layer as grouped products on token strips. Each pass reads every weight once, from one copy;
// LoRA, the activation and their gradients are computed on blocks of sums while these are in the cache.
#pragma once

#include "core/parallel.hpp"
#include "core/trace.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/blocks.hpp"
#include "ops/expert_backend.hpp"
#include "ops/integer_products.hpp"
#include "ops/row_chunks.hpp"
#include "ops/strip_products.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

namespace moesaic::ops {

/// Z of a LoRA gradient L^T Z: rows of all tokens, or blocks that the backward passes leave. Gate and up share the
/// hidden states unless dropout gives them different ones.
enum class GradientOperand : std::uint8_t { hidden, hidden_of_up, grad_gate, grad_up, activation, grad_output };

template <class Scalar>
class GroupedExperts final : public ExpertBackend<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    /// `kernels` must outlive the object.
    ~GroupedExperts() override { this->abandon(); }
    GroupedExperts(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<Scalar>> workspace,
                   const kernels::KernelSet& kernels);
    [[nodiscard]] std::size_t weight_bytes() const noexcept override;

private:
    /// One item of work, the rows it is about, and the buffers of the thread that does it.
    struct TaskContext {
        const WorkItem& item;
        const RowChunk& chunk;
        ThreadScratch<Scalar>& scratch;

        [[nodiscard]] index_t rows() const { return chunk.rows; }
        [[nodiscard]] index_t strips() const { return chunk.strips(); }
        /// Elements between features where rows of sums are features; no multiple of 1 KiB, whose lines collide in L1.
        [[nodiscard]] index_t stride() const { return chunk.strips() * kernel_block + 16; }
        /// What all items of a chunk compute is written for later passes by one of them.
        [[nodiscard]] bool is_first() const { return item.first == 0; }
    };

    /// Token rows that meet weights and adapters: as Scalar, and rounded where weights are multiplied as integers.
    struct TokenRows {
        Strips strips;
        QuantisedTokens<Sum> quantised{};
    };

    void do_load_weights(const ExpertWeightSource& source) override;
    void do_update_lora() override;
    void do_forward(SavedExperts<Scalar>& saved, bool keep, MatrixView<Sum> output) override;
    void do_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output, bool with_input_gradients,
                     MatrixView<Sum> grad_input) override;

    void prepare(const SavedExperts<Scalar>& saved);
    template <class Body>
    void for_each_task(index_t strips, const Body& body);
    [[nodiscard]] bool uses_integers() const { return access_to<Scalar>(weights_[0].format()) == Access::integers; }
    [[nodiscard]] PanelBlocks largest_panel(const TaskContext& task) const {
        return uses_integers() ? integers_.largest_panel() : products_.largest_panel(task.rows());
    }
    /// StripProducts::weights_by_tokens and tokens_by_weights for the task's next weights, in either arithmetic.
    template <class Done>
    void weights_by_tokens(const TaskContext& task, index_t features, const TokenRows& tokens, Sum* sums,
                           const TokenTerm& more, const Done& done) const;
    template <class Done>
    void tokens_by_weights(const TaskContext& task, const TokenRows& tokens, index_t features, Sum* sums,
                           bool accumulate, const TokenTerm& more, const Done& done) const;
    [[nodiscard]] StoredRun weight_strip(Projection p, index_t expert, index_t row_block) const;
    [[nodiscard]] StoredRun weight_columns(Projection p, index_t expert, index_t col_block) const;
    [[nodiscard]] MatrixView<const Scalar> lora_a(Projection p, index_t expert) const;  // [R, in], times the scale
    [[nodiscard]] MatrixView<const Scalar> lora_b(Projection p, index_t expert) const;  // [out, R]
    static void gather_blocks(const RoutedRows& routed, MatrixView<const Scalar> tokens, const RowChunk& chunk,
                              index_t first, index_t last, Scalar* out);
    void sum_over_choices(const RoutedRows& routed, MatrixView<Sum> tokens);
    [[nodiscard]] bool has_dropout() const { return !this->workspace().row_tokens.empty(); }
    [[nodiscard]] DropoutMask mask_of(Projection p, index_t expert) const;

    // grouped_experts_forward.cpp
    void project_up(const SavedExperts<Scalar>& saved, PreActivations<Scalar>* kept, bool activate);
    void project_down();
    [[nodiscard]] TokenRows gather_tokens(const SavedExperts<Scalar>& saved, const TaskContext& task) const;
    [[nodiscard]] Strips gather_columns(const SavedExperts<Scalar>& saved, const TaskContext& task,
                                        const DropoutMask* mask, core::Buffer<std::byte>& storage) const;
    [[nodiscard]] Strips low_rank(Projection p, const TaskContext& task, const Strips& tokens,
                                  core::Buffer<std::byte>& storage, Scalar* kept) const;
    [[nodiscard]] TokenTerm low_rank_term(Projection p, const TaskContext& task, index_t strip,
                                          const Strips& low_rank) const;
    void keep(const TaskContext& task, index_t strip, PreActivations<Scalar>& kept) const;
    void activate(const TaskContext& task, index_t strip);
    void pack_activation(const TaskContext& task, index_t strip, const Scalar* values,
                         core::Buffer<std::byte>& strips) const;
    void write_activation_blocks(const TaskContext& task, index_t strip, const Sum* values) const;
    [[nodiscard]] Strips activated_strips(const TaskContext& task, const core::Buffer<std::byte>& strips) const;

    // grouped_experts_backward.cpp
    void backward_down(const SavedExperts<Scalar>& saved, const PreActivations<Scalar>& kept,
                       MatrixView<const Scalar> grad_output);
    void backward_up(bool with_input_gradients);
    void sum_weight_gradients(const RoutedRows& routed);
    void activation_gradients(const TaskContext& task, index_t strip, index_t s, const Sum* sums,
                              const PreActivations<Scalar>& kept);
    template <class StripOfMatrix>
    void low_rank_rows(const TaskContext& task, const Strips& tokens, index_t k, const StripOfMatrix& factor_strip,
                       Scalar* out) const;
    [[nodiscard]] Strips low_rank_gradient(Projection p, const TaskContext& task, const Strips& grad, std::size_t slot);
    void quantise_gradient(Projection p, const TaskContext& task, const Scalar* blocks, index_t along_k,
                           std::size_t slot, TokenRows& grad) const;
    template <class Done>
    void input_gradient(Projection p, const TaskContext& task, index_t strip, const TokenRows& grad,
                        const Strips& low_rank, bool accumulate, Sum* sums, const Done& done) const;

    // grouped_experts_lora.cpp
    /// L of a gradient L^T Z, and the LoRA matrix that it belongs to.
    struct LoraTerm {
        Projection projection;
        LoraFactor factor;
        const Scalar* by_feature;  ///< L^T as [R, rows] per chunk; or, if that is null,
        const Scalar* blocks;      ///< L as [strips][blocks of R][32, 32]
    };
    void lora_gradients(const SavedExperts<Scalar>& saved, const PreActivations<Scalar>& kept,
                        MatrixView<const Scalar> grad_output);
    [[nodiscard]] std::vector<LoraTerm> terms_of(GradientOperand operand, const PreActivations<Scalar>& kept);
    void pack_low_rank(const LoraTerm& term, const RowChunk& chunk, index_t block, std::byte* strip) const;
    [[nodiscard]] BlockRun<Scalar> operand_blocks(GradientOperand operand, const SavedExperts<Scalar>& saved,
                                                  MatrixView<const Scalar> grad_output, const RowChunk& chunk,
                                                  index_t first, index_t last, ThreadScratch<Scalar>& scratch);
    void drop_blocks(const DropoutMask& mask, const RowChunk& chunk, index_t first, index_t last, Scalar* blocks) const;
    void add_to_gradient(const LoraTerm& term, index_t expert, index_t first, index_t count, Sum* sums, index_t stride,
                         ThreadScratch<Scalar>& scratch) const;

    const StripProducts<Scalar> products_;
    const IntegerProducts<Scalar> integers_;
    const kernels::ElementwiseKernels<Scalar>& elementwise_;
    const kernels::ElementwiseKernels<Sum>& elementwise_of_sums_;
    index_t hidden_blocks_;
    index_t intermediate_blocks_;
    index_t lora_rank_blocks_;
    std::array<PackedWeights, projections.size()> weights_;  // gate, up: E x [I, H]; down: E x [H, I]
    std::array<Matrix<Scalar>, projections.size()> lora_a_;  // times the scale
    std::array<Matrix<Scalar>, projections.size()> lora_b_;
};

/// Calls body(task) for all tasks of the work that computes `strips` strips of output features for every row.
template <class Scalar>
template <class Body>
void GroupedExperts<Scalar>::for_each_task(index_t strips, const Body& body) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const int threads = core::threads_for(static_cast<double>(work.rows_out.rows()) *
                                          static_cast<double>(this->config().hidden * this->config().intermediate));
    const std::vector<WorkItem> items = make_items(work.chunks, strips, threads);
    work.of_thread.resize(std::max(work.of_thread.size(), static_cast<std::size_t>(threads)));
    core::parallel_for(static_cast<index_t>(items.size()), threads, [&](index_t i) {
        const WorkItem& item = items[static_cast<std::size_t>(i)];
        const typename StripProducts<Scalar>::TileState tiles(products_);
        const kernels::ProcessorScope integers(uses_integers() ? integers_.processor_state() : kernels::no_state);
        body(TaskContext{item, work.chunks[static_cast<std::size_t>(item.chunk)],
                         work.of_thread[static_cast<std::size_t>(omp_get_thread_num())]});
    });
}

template <class Scalar>
template <class Done>
void GroupedExperts<Scalar>::weights_by_tokens(const TaskContext& task, index_t features, const TokenRows& tokens,
                                               Sum* sums, const TokenTerm& more, const Done& done) const {
    ThreadScratch<Scalar>& scratch = task.scratch;
    if (uses_integers()) {
        integers_.weights_by_tokens(scratch.weights, features, tokens.quantised, task.rows(), sums, task.stride(),
                                    scratch.integers, more, done);
    } else {
        products_.weights_by_tokens(scratch.weights, features, tokens.strips, task.rows(), sums, task.stride(), false,
                                    scratch.panel, more, done);
    }
}

template <class Scalar>
template <class Done>
void GroupedExperts<Scalar>::tokens_by_weights(const TaskContext& task, const TokenRows& tokens, index_t features,
                                               Sum* sums, bool accumulate, const TokenTerm& more,
                                               const Done& done) const {
    ThreadScratch<Scalar>& scratch = task.scratch;
    if (uses_integers()) {
        integers_.tokens_by_weights(tokens.quantised, task.rows(), scratch.weights, features, sums, accumulate,
                                    scratch.integers, more, done);
    } else {
        products_.tokens_by_weights(tokens.strips, task.rows(), scratch.weights, features, sums, accumulate,
                                    scratch.panels, more, done);
    }
}

}  // namespace moesaic::ops
