#include "model/attention.hpp"

#include "core/trace.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace moesaic::model {
namespace {

using core::bf16;
using core::Matrix;

/// Rows of queries that are worked on together: one block's scores stay in the L2 cache for usual sequence lengths.
constexpr index_t block_rows = 64;

/// Scores and probabilities of one block of queries against all its keys.
template <class T>
struct Scratch {
    Matrix<accumulator_t<T>> scores;       // [block_rows, S]
    Matrix<accumulator_t<T>> grad_scores;  // [block_rows, S]
    Matrix<T> probabilities;               // [block_rows, S]
    Matrix<T> grad_scores_operand;         // [block_rows, S]
    Matrix<accumulator_t<T>> result;       // [block_rows, D]
};

template <class T>
std::vector<Scratch<T>> make_scratch(std::span<const index_t> offsets, index_t head_size, bool backward) {
    index_t longest = 0;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        longest = std::max(longest, offsets[s + 1] - offsets[s]);
    }
    std::vector<Scratch<T>> all(static_cast<std::size_t>(omp_get_max_threads()));
    for (Scratch<T>& scratch : all) {
        scratch.scores.resize(block_rows, longest);
        scratch.probabilities.resize(block_rows, longest);
        scratch.result.resize(block_rows, head_size);
        if (backward) {
            scratch.grad_scores.resize(block_rows, longest);
            scratch.grad_scores_operand.resize(block_rows, longest);
        }
    }
    return all;
}

/// The first `rows` x `cols` elements of a scratch matrix.
template <class U>
MatrixView<U> part(Matrix<U>& matrix, index_t rows, index_t cols) {
    return {matrix.data(), rows, cols, matrix.cols()};
}

/// One block of query rows of one head, and the keys that it may see.
struct Block {
    index_t sequence_begin;
    index_t first;  ///< first query row, counted from the start of the sequence
    index_t rows;
    index_t head;

    [[nodiscard]] index_t keys() const { return first + rows; }
    [[nodiscard]] index_t row() const { return sequence_begin + first; }
};

std::vector<Block> blocks_of(std::span<const index_t> offsets, index_t heads) {
    std::vector<Block> blocks;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const index_t length = offsets[s + 1] - offsets[s];
        for (index_t first = 0; first < length; first += block_rows) {
            for (index_t head = 0; head < heads; ++head) {
                blocks.push_back({offsets[s], first, std::min(block_rows, length - first), head});
            }
        }
    }
    // Later blocks of a sequence see more keys: start with the expensive ones.
    std::stable_sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.keys() > b.keys(); });
    return blocks;
}

/// Softmax over the keys that each row may see; masked probabilities are zero. Returns nothing but fills `log_sum`.
template <class T>
void causal_softmax(const Block& block, MatrixView<accumulator_t<T>> scores, MatrixView<T> probabilities,
                    MatrixView<accumulator_t<T>> log_sum) {
    using A = accumulator_t<T>;
    for (index_t i = 0; i < block.rows; ++i) {
        const index_t visible = block.first + i + 1;
        A* row = scores[i];
        const A largest = *std::max_element(row, row + visible);
        A sum = 0;
        for (index_t j = 0; j < visible; ++j) {
            row[j] = std::exp(row[j] - largest);
            sum += row[j];
        }
        for (index_t j = 0; j < visible; ++j) {
            probabilities(i, j) = static_cast<T>(row[j] / sum);
        }
        std::fill(probabilities[i] + visible, probabilities[i] + block.keys(), static_cast<T>(A(0)));
        log_sum(block.row() + i, block.head) = largest + std::log(sum);
    }
}

}  // namespace

template <class T>
void attention_forward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<T>& in,
                       MatrixView<T> output, MatrixView<accumulator_t<T>> log_sum) {
    using A = accumulator_t<T>;
    const core::trace::Scope scope("attention.forward");
    const index_t size = shape.head_size;
    const index_t group = shape.heads / shape.kv_heads;
    const std::vector<Block> blocks = blocks_of(in.offsets, shape.heads);
    auto scratch_of_thread = make_scratch<T>(in.offsets, size, false);
#pragma omp parallel for schedule(dynamic, 1)
    for (std::size_t b = 0; b < blocks.size(); ++b) {
        const Block& block = blocks[b];
        Scratch<T>& scratch = scratch_of_thread[static_cast<std::size_t>(omp_get_thread_num())];
        const auto query = in.query.rows(block.row(), block.rows).columns(block.head * size, size);
        const auto key = in.key.rows(block.sequence_begin, block.keys()).columns(block.head / group * size, size);
        const auto value = in.value.rows(block.sequence_begin, block.keys()).columns(block.head / group * size, size);
        const auto scores = part(scratch.scores, block.rows, block.keys());
        const auto probabilities = part(scratch.probabilities, block.rows, block.keys());
        kernels.run_on_calling_thread(
            kernels::product<T>(query, false, key, true, scores, static_cast<A>(shape.scale), false));
        causal_softmax<T>(block, scores, probabilities, log_sum);
        const auto result = part(scratch.result, block.rows, size);
        kernels.run_on_calling_thread(kernels::product<T>(probabilities, false, value, false, result, A(1), false));
        for (index_t i = 0; i < block.rows; ++i) {
            T* out = output[block.row() + i] + block.head * size;
            std::transform(result[i], result[i] + size, out, [](A x) { return static_cast<T>(x); });
        }
    }
}

namespace {

/// dS = P * (dP - <dO, O>) of one block, rounded into an operand; also recomputes P. Masked elements are zero.
template <class T>
void score_gradients(const Block& block, const AttentionShape& shape, Scratch<T>& scratch, MatrixView<const T> output,
                     MatrixView<const accumulator_t<T>> log_sum, MatrixView<const T> grad_output) {
    using A = accumulator_t<T>;
    for (index_t i = 0; i < block.rows; ++i) {
        const index_t visible = block.first + i + 1;
        const index_t row = block.row() + i;
        const T* out = output[row] + block.head * shape.head_size;
        const T* grad_out = grad_output[row] + block.head * shape.head_size;
        A delta = 0;
        for (index_t d = 0; d < shape.head_size; ++d) {
            delta += core::widen(out[d]) * core::widen(grad_out[d]);
        }
        const A shift = log_sum(row, block.head);
        const A* score = scratch.scores.data() + i * scratch.scores.cols();
        const A* grad = scratch.grad_scores.data() + i * scratch.grad_scores.cols();
        T* probability = scratch.probabilities.data() + i * scratch.probabilities.cols();
        T* operand = scratch.grad_scores_operand.data() + i * scratch.grad_scores_operand.cols();
        for (index_t j = 0; j < visible; ++j) {
            const A p = std::exp(score[j] - shift);
            probability[j] = static_cast<T>(p);
            operand[j] = static_cast<T>(p * (grad[j] - delta));
        }
        std::fill(probability + visible, probability + block.keys(), static_cast<T>(A(0)));
        std::fill(operand + visible, operand + block.keys(), static_cast<T>(A(0)));
    }
}

}  // namespace

template <class T>
void attention_backward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<T>& in,
                        MatrixView<const T> output, MatrixView<const accumulator_t<T>> log_sum,
                        MatrixView<const T> grad_output, MatrixView<accumulator_t<T>> grad_query,
                        MatrixView<accumulator_t<T>> grad_key, MatrixView<accumulator_t<T>> grad_value) {
    using A = accumulator_t<T>;
    const core::trace::Scope scope("attention.backward");
    const index_t size = shape.head_size;
    const index_t group = shape.heads / shape.kv_heads;
    const auto scale = static_cast<A>(shape.scale);
    const index_t sequences = static_cast<index_t>(in.offsets.size()) - 1;
    auto scratch_of_thread = make_scratch<T>(in.offsets, size, true);
    // One task owns the keys and values of one sequence and head, so that sums into them need no synchronisation.
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (index_t s = 0; s < sequences; ++s) {
        for (index_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
            Scratch<T>& scratch = scratch_of_thread[static_cast<std::size_t>(omp_get_thread_num())];
            const index_t begin = in.offsets[static_cast<std::size_t>(s)];
            const index_t length = in.offsets[static_cast<std::size_t>(s) + 1] - begin;
            const auto all_keys = in.key.rows(begin, length).columns(kv_head * size, size);
            const auto all_values = in.value.rows(begin, length).columns(kv_head * size, size);
            const auto all_grad_keys = grad_key.rows(begin, length).columns(kv_head * size, size);
            const auto all_grad_values = grad_value.rows(begin, length).columns(kv_head * size, size);
            for (index_t row = 0; row < length; ++row) {
                std::fill_n(all_grad_keys[row], size, A(0));
                std::fill_n(all_grad_values[row], size, A(0));
            }
            for (index_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
                for (index_t first = 0; first < length; first += block_rows) {
                    const Block block{begin, first, std::min(block_rows, length - first), head};
                    const auto query = in.query.rows(block.row(), block.rows).columns(head * size, size);
                    const auto grad_out = grad_output.rows(block.row(), block.rows).columns(head * size, size);
                    const auto key = all_keys.rows(0, block.keys());
                    const auto value = all_values.rows(0, block.keys());
                    kernels.run_on_calling_thread(kernels::product<T>(
                        query, false, key, true, part(scratch.scores, block.rows, block.keys()), scale, false));
                    kernels.run_on_calling_thread(
                        kernels::product<T>(grad_out, false, value, true,
                                            part(scratch.grad_scores, block.rows, block.keys()), A(1), false));
                    score_gradients<T>(block, shape, scratch, output, log_sum, grad_output);
                    const MatrixView<const T> probabilities = part(scratch.probabilities, block.rows, block.keys());
                    const MatrixView<const T> grad_scores = part(scratch.grad_scores_operand, block.rows, block.keys());
                    kernels.run_on_calling_thread(kernels::product<T>(
                        grad_scores, false, key, false,
                        grad_query.rows(block.row(), block.rows).columns(head * size, size), scale, false));
                    kernels.run_on_calling_thread(kernels::product<T>(
                        grad_scores, true, query, false, all_grad_keys.rows(0, block.keys()), scale, true));
                    kernels.run_on_calling_thread(kernels::product<T>(
                        probabilities, true, grad_out, false, all_grad_values.rows(0, block.keys()), A(1), true));
                }
            }
        }
    }
}

#define MOESAIC_INSTANTIATE(T)                                                                                        \
    template void attention_forward<T>(const kernels::KernelSet&, const AttentionShape&, const AttentionInputs<T>&,   \
                                       MatrixView<T>, MatrixView<accumulator_t<T>>);                                  \
    template void attention_backward<T>(const kernels::KernelSet&, const AttentionShape&, const AttentionInputs<T>&,  \
                                        MatrixView<const T>, MatrixView<const accumulator_t<T>>, MatrixView<const T>, \
                                        MatrixView<accumulator_t<T>>, MatrixView<accumulator_t<T>>,                   \
                                        MatrixView<accumulator_t<T>>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
