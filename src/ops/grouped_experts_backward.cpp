// Backward of grouped experts: gradients of activations. Results are computed token by token, C[tokens, features] = g
// W: blocks of the same weights become the right operand by interleaving pairs of their rows in the cache.
//
// With g the gradient of an expert's output for a row, w the row's routing weight, and h = w silu(gate) up:
//
//     backward_down   g ----- D and its adapter ----> dh ---- silu and product ----> d gate, d up
//                     g B_down -> [R], kept            \___ sums over I -----------> dw, one sum per block of I
//     backward_up     d gate, d up -- G, U and theirs --> dx, summed over a token's experts
//                     d gate B_gate, d up B_up -> [R], kept; h A_down^T -> [R], kept
//     lora_gradients  what was kept times x, h, d gate, d up, g (grouped_experts_lora.cpp)
#include "ops/grouped_experts.hpp"

#include <algorithm>
#include <array>

namespace moesaic::ops {

using core::bf16;

/// From the gradient of the output through the down projection and the activation: grad_pre_activations, the activation
/// itself, and the gradients of the routing weights as one sum per block of I.
template <class Scalar>
void GroupedExperts<Scalar>::backward_down(const SavedExperts<Scalar>& saved, const PreActivations<Scalar>& kept,
                                           MatrixView<const Scalar> grad_output) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_backward_down);
    const auto block_rows = static_cast<std::size_t>(work.strips * block_elements);
    for (core::Buffer<Scalar>* buffer :
         {&work.activation, &work.grad_pre_activations[0], &work.grad_pre_activations[1]}) {
        buffer->reserve(block_rows * static_cast<std::size_t>(intermediate_blocks_));
    }
    for (core::Buffer<Scalar>* buffer :
         {&work.low_rank_down, &work.grad_low_rank[0], &work.grad_low_rank[1], &work.grad_low_rank[2]}) {
        buffer->reserve(block_rows * static_cast<std::size_t>(lora_rank_blocks_));
    }
    work.weight_gradient_sums.resize(intermediate_blocks_, saved.routed.rows());
    for_each_task(intermediate_blocks_, [&](const TaskContext& task) {
        const index_t expert = task.chunk.expert;
        WeightStream<Scalar>& weights = task.scratch.weights;
        weights.start(task.item.last - task.item.first, largest_panel(task), 2,
                      [&](index_t i) { return weight_columns(Projection::down, expert, task.item.first + i); });
        weights.ask_for_first_panels();
        Scalar* rows =
            task.scratch.rows.reserve(static_cast<std::size_t>(task.strips() * hidden_blocks_ * block_elements));
        gather_blocks(saved.routed, grad_output, task.chunk, 0, hidden_blocks_, rows);
        TokenRows grad = {products_.left_of_blocks(rows, task.strips(), hidden_blocks_, task.scratch.tokens)};
        quantise_gradient(Projection::down, task, rows, hidden_blocks_, 0, grad);
        const Strips low_rank = low_rank_gradient(Projection::down, task, grad.strips, 0);
        Sum* sums = task.scratch.sums[0].reserve(static_cast<std::size_t>(task.strips() * block_elements));
        task.scratch.panels.forget();
        for (index_t strip = task.item.first; strip < task.item.last; ++strip) {
            input_gradient(Projection::down, task, strip, grad, low_rank, false, sums,
                           [&](index_t s) { activation_gradients(task, strip, s, sums + s * block_elements, kept); });
        }
    });
}

/// rows_out = the gradient of the hidden states, gate's and up's share in one sum; or only what the gradients of LoRA
/// need.
template <class Scalar>
void GroupedExperts<Scalar>::backward_up(bool with_input_gradients) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_backward_gate_up);
    const ExpertConfig& config = this->config();
    const auto rows_of = [&](const TaskContext& task, const core::Buffer<Scalar>& blocks) -> const Scalar* {
        return blocks.data() + task.chunk.first_strip * intermediate_blocks_ * block_elements;
    };
    const auto left_of = [&](const TaskContext& task, const core::Buffer<Scalar>& blocks,
                             core::Buffer<std::byte>& storage) {
        return products_.left_of_blocks(rows_of(task, blocks), task.strips(), intermediate_blocks_, storage);
    };
    for_each_task(with_input_gradients ? hidden_blocks_ : 1, [&](const TaskContext& task) {
        const index_t expert = task.chunk.expert;
        WeightStream<Scalar>& weights = task.scratch.weights;
        weights.start(2 * (task.item.last - task.item.first), largest_panel(task), 2, [&](index_t i) {
            return weight_columns(i % 2 == 0 ? Projection::gate : Projection::up, expert, task.item.first + i / 2);
        });
        weights.ask_for_first_panels();
        if (task.is_first() && config.lora_rank > 0) {
            const Strips activation = left_of(task, work.activation, task.scratch.tokens);
            const MatrixView<const Scalar> a = lora_a(Projection::down, expert);
            low_rank_rows(
                task, activation, a.cols(),
                [&](index_t first, index_t count) { return products_.rows(a[first], a.stride(), count, a.cols()); },
                work.low_rank_down.data() + task.chunk.first_strip * lora_rank_blocks_ * block_elements);
        }
        TokenRows grad_gate = {left_of(task, work.grad_pre_activations[0], task.scratch.tokens)};
        TokenRows grad_up = {left_of(task, work.grad_pre_activations[1], task.scratch.more_tokens)};
        const Strips low_rank_gate = low_rank_gradient(Projection::gate, task, grad_gate.strips, 0);
        const Strips low_rank_up = low_rank_gradient(Projection::up, task, grad_up.strips, 1);
        if (!with_input_gradients) {
            return;
        }
        quantise_gradient(Projection::gate, task, rows_of(task, work.grad_pre_activations[0]), intermediate_blocks_, 0,
                          grad_gate);
        quantise_gradient(Projection::up, task, rows_of(task, work.grad_pre_activations[1]), intermediate_blocks_, 1,
                          grad_up);
        Sum* sums = task.scratch.sums[0].reserve(static_cast<std::size_t>(task.strips() * block_elements));
        task.scratch.panels.forget();
        for (index_t strip = task.item.first; strip < task.item.last; ++strip) {
            const auto write = [&](index_t s) {
                elementwise_.narrow_rows(
                    extent_of_block(task.rows(), s), extent_of_block(config.hidden, strip), sums + s * block_elements,
                    kernel_block, work.rows_out.view()[task.chunk.begin + s * kernel_block] + strip * kernel_block,
                    config.hidden);
            };
            input_gradient(Projection::gate, task, strip, grad_gate, low_rank_gate, false, sums, [](index_t) {});
            input_gradient(Projection::up, task, strip, grad_up, low_rank_up, true, sums, write);
        }
    });
}

/// Gradients of gate and up for one strip of intermediate features and strip s of tokens, given the activation's
/// gradient `sums` [32, 32].
template <class Scalar>
void GroupedExperts<Scalar>::activation_gradients(const TaskContext& task, index_t strip, index_t s, const Sum* sums,
                                                  const PreActivations<Scalar>& kept) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const index_t intermediate = this->config().intermediate;
    const index_t features = extent_of_block(intermediate, strip);
    const index_t rows = extent_of_block(task.rows(), s);
    const index_t first_row = task.chunk.begin + s * kernel_block;
    std::array<std::array<Sum, block_elements>, 2> by_token;
    for (std::size_t i = 0; i < 2; ++i) {
        const Scalar* from =
            kept.values[i].data() + intermediate * task.chunk.begin + strip * kernel_block * task.rows();
        elementwise_.transpose_widen(features, rows, from + s * kernel_block, task.rows(), by_token[i].data(),
                                     kernel_block);
    }
    const index_t block = ((task.chunk.first_strip + s) * intermediate_blocks_ + strip) * block_elements;
    Sum* weight_gradient = work.weight_gradient_sums.view()[strip] + first_row;
    const DropoutMask mask = mask_of(Projection::down, task.chunk.expert);
    for (index_t row = 0; row < rows; ++row) {
        const index_t from = row * kernel_block;
        Scalar* grad_gate = work.grad_pre_activations[0].data() + block + from;
        Scalar* grad_up = work.grad_pre_activations[1].data() + block + from;
        Scalar* activation = work.activation.data() + block + from;
        const auto of_row = static_cast<std::size_t>(first_row + row);
        weight_gradient[row] =
            elementwise_.swiglu_backward(features, sums + from, by_token[0].data() + from, by_token[1].data() + from,
                                         work.row_weights[of_row], grad_gate, grad_up, activation);
        if (has_dropout()) {  // the activation is for LoRA alone
            mask.apply(work.row_tokens[of_row], this->config().intermediate_begin + strip * kernel_block, features,
                       activation);
        }
        for (Scalar* out : {grad_gate, grad_up, activation}) {
            std::fill(out + features, out + kernel_block, static_cast<Scalar>(0.0F));
        }
    }
}

template <class Scalar>
void GroupedExperts<Scalar>::sum_weight_gradients(const RoutedRows& routed) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const MatrixView<const Sum> sums = work.weight_gradient_sums;
    const MatrixView<Sum> grad_weights = work.grad_weights;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < routed.rows(); ++row) {
        Sum sum = 0;
        for (index_t block = 0; block < sums.rows(); ++block) {
            sum += sums(block, row);
        }
        grad_weights(routed.token[static_cast<std::size_t>(row)], routed.choice[static_cast<std::size_t>(row)]) = sum;
    }
}

/// Blocks [strips][blocks of R][32, 32]: tokens [rows, k] times a matrix with R columns, whose strips
/// strip_of_matrix(first, count) returns as vectors.
template <class Scalar>
template <class StripOfMatrix>
void GroupedExperts<Scalar>::low_rank_rows(const TaskContext& task, const Strips& tokens, index_t k,
                                           const StripOfMatrix& strip_of_matrix, Scalar* out) const {
    const index_t lora_rank = this->config().lora_rank;
    const Strips matrix = products_.right_strips(task.scratch.lora_matrix, 1, tokens.blocks);
    Sum* sums = task.scratch.low_rank_sums.reserve(static_cast<std::size_t>(task.strips() * block_elements));
    for (index_t block = 0; block < lora_rank_blocks_; ++block) {
        const index_t count = extent_of_block(lora_rank, block);
        products_.pack_right(matrix.data, strip_of_matrix(block * kernel_block, count));
        products_.tokens_by_strip(tokens, task.rows(), matrix.data, count, k, sums);
        for (index_t s = 0; s < task.strips(); ++s) {
            Scalar* to = out + (s * lora_rank_blocks_ + block) * block_elements;
            if (count < kernel_block) {
                std::fill_n(to, block_elements, static_cast<Scalar>(0.0F));
            }
            elementwise_.narrow_rows(extent_of_block(task.rows(), s), count, sums + s * block_elements, kernel_block,
                                     to, kernel_block);
        }
    }
}

/// The gradient of the low-rank activations, grad B without the scale, as left operand; kept for the gradient of A.
template <class Scalar>
Strips GroupedExperts<Scalar>::low_rank_gradient(Projection p, const TaskContext& task, const Strips& grad,
                                                 std::size_t slot) {
    if (this->config().lora_rank == 0) {
        return {};
    }
    const MatrixView<const Scalar> b = lora_b(p, task.chunk.expert);
    const index_t size = lora_rank_blocks_ * block_elements;
    Scalar* out =
        task.is_first()
            ? this->workspace().grad_low_rank[static_cast<std::size_t>(p)].data() + task.chunk.first_strip * size
            : task.scratch.low_rank_rows[slot].reserve(static_cast<std::size_t>(task.strips() * size));
    low_rank_rows(
        task, grad, b.rows(),
        [&](index_t first, index_t count) { return products_.columns(b.data() + first, b.stride(), count, b.rows()); },
        out);
    return products_.left_of_blocks(out, task.strips(), lora_rank_blocks_, task.scratch.low_rank[slot]);
}

/// Gradients of a projection's output, blocks [strips][along_k], times the scales of the rows of its weights, which are
/// what they are summed over: rounded where weights are multiplied as integers.
template <class Scalar>
void GroupedExperts<Scalar>::quantise_gradient(Projection p, const TaskContext& task, const Scalar* blocks,
                                               index_t along_k, std::size_t slot, TokenRows& grad) const {
    if (uses_integers()) {
        IntegerScratch<Scalar>& scratch = task.scratch.integers;
        const Sum* scales = integers_.scales_of(weights_[static_cast<std::size_t>(p)], task.chunk.expert, scratch);
        grad.quantised = integers_.quantise(blocks, task.rows(), along_k, scales, Side::left, scratch, slot);
    }
}

/// sums = the gradient of a projection's input for one strip of its features: through the task's next weights, and
/// through A with its scale. Added to sums if `accumulate`. done(s) is called when those of token strip s are complete.
template <class Scalar>
template <class Done>
void GroupedExperts<Scalar>::input_gradient(Projection p, const TaskContext& task, index_t strip, const TokenRows& grad,
                                            const Strips& low_rank, bool accumulate, Sum* sums,
                                            const Done& done) const {
    const ExpertConfig& config = this->config();
    const index_t features = extent_of_block(p == Projection::down ? config.intermediate : config.hidden, strip);
    TokenTerm term;
    if (config.lora_rank > 0) {
        const MatrixView<const Scalar> a = lora_a(p, task.chunk.expert);
        const Strips matrix = products_.right_strips(task.scratch.lora_matrix, 1, lora_rank_blocks_);
        products_.pack_right(matrix.data,
                             products_.columns(a.data() + strip * kernel_block, a.stride(), features, a.rows()));
        term = {matrix.data, low_rank, a.rows()};
    }
    if (!has_dropout() || term.k == 0) {
        tokens_by_weights(task, grad, features, sums, accumulate, term, done);
        return;
    }
    // What comes through A passes the mask of the projection's input.
    Sum* product = task.scratch.dropped_sums.reserve(static_cast<std::size_t>(task.strips() * block_elements));
    products_.tokens_by_strip(term.tokens, task.rows(), term.strip, features, term.k, product);
    const DropoutMask mask = mask_of(p, task.chunk.expert);
    const index_t first = (p == Projection::down ? config.intermediate_begin : 0) + strip * kernel_block;
    const std::uint64_t* row_tokens = this->workspace().row_tokens.data() + task.chunk.begin;
    tokens_by_weights(task, grad, features, sums, accumulate, {}, [&](index_t s) {
        for (index_t row = s * kernel_block; row < task.rows() && row < (s + 1) * kernel_block; ++row) {
            mask.add(row_tokens[row], first, features, product + row * kernel_block, sums + row * kernel_block);
        }
        done(s);
    });
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                 \
    template void GroupedExperts<Scalar>::backward_down(const SavedExperts<Scalar>&, const PreActivations<Scalar>&, \
                                                        MatrixView<const Scalar>);                                  \
    template void GroupedExperts<Scalar>::backward_up(bool);                                                        \
    template void GroupedExperts<Scalar>::sum_weight_gradients(const RoutedRows&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
