// Attention backward; probabilities are recomputed from the log-sums in blocks (Dao et al., "FlashAttention", 2022).
//
// A task is a block of queries with a block of keys of one key head. It adds to the gradients of both, so that tasks
// that share queries or keys must not run at once. With P the probabilities and S the scores of the block, of a head:
//
//     queries Q, keys K ------> S = scale Q K^T --> P = exp(S - log_sum) --> dV += P^T dO
//     dO, values V -----------> dP = dO V^T ---------+
//     delta = <dO, O> per row ------------------> dS = scale P (dP - delta) --> dQ += dS K, dK += dS^T Q
//
// Tasks run in rounds: in round r block i of the queries of a sequence of n blocks meets block j of its keys if i + j =
// r (mod n). In a round each block occurs once, about half of them in a pair that the causal mask admits, and each
// gradient is summed in the order of the rounds whatever the threads do.
#include "core/trace.hpp"
#include "ops/attention.hpp"
#include "ops/attention_strips.hpp"

#include <omp.h>

namespace moesaic::ops {
namespace {

using core::bf16;
using core::Matrix;

/// Length of blocks: the operands of a task stay in the L2 cache, and products are not too short.
constexpr index_t longest_block = 128;
constexpr index_t shortest_block = 64;

struct Task {
    std::size_t sequence;
    index_t kv_head;
    index_t query;  ///< first query, from the start of the sequence
    index_t queries;
    index_t key;  ///< first key
    index_t keys;

    [[nodiscard]] bool is_diagonal() const { return query == key; }
};

/// Blocks are as long as leaves a round enough tasks. The length depends on the sequences alone, not on the number of
/// threads, because the order of sums depends on it.
index_t block_length(const AttentionShape& shape, std::span<const index_t> offsets) {
    constexpr index_t wanted_tasks = 32;
    index_t length = longest_block;
    const auto tasks = [&] {
        index_t blocks = 0;
        for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
            blocks += (offsets[s + 1] - offsets[s] + length - 1) / length;
        }
        return shape.kv_heads * blocks / 2;
    };
    while (length > shortest_block && tasks() < wanted_tasks) {
        length /= 2;
    }
    return length;
}

std::vector<std::vector<Task>> make_rounds(const AttentionShape& shape, std::span<const index_t> offsets,
                                           index_t length) {
    std::vector<std::vector<Task>> rounds;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
        const index_t rows = offsets[s + 1] - offsets[s];
        const index_t blocks = (rows + length - 1) / length;
        rounds.resize(std::max(rounds.size(), static_cast<std::size_t>(blocks)));
        for (index_t i = 0; i < blocks; ++i) {
            for (index_t j = shape.first_key(i * length) / length; j <= i; ++j) {
                for (index_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
                    rounds[static_cast<std::size_t>((i + j) % blocks)].push_back(
                        {s, kv_head, i * length, std::min(length, rows - i * length), j * length,
                         std::min(length, rows - j * length)});
                }
            }
        }
    }
    for (std::vector<Task>& round : rounds) {  // start with the expensive ones
        const auto work = [](const Task& task) { return task.queries * task.keys * (task.is_diagonal() ? 1 : 2); };
        std::stable_sort(round.begin(), round.end(), [&](const Task& a, const Task& b) { return work(a) > work(b); });
    }
    return rounds;
}

/// Working memory of one thread. L: length of a block.
template <class Scalar>
struct Scratch {
    using Sum = accumulator_t<Scalar>;

    Scratch(const AttentionStrips<Scalar>& strips, index_t length, const AttentionShape& shape)
        : query(1, strips.left_bytes(kernel_block, shape.head_size)),
          grad_output(1, strips.left_bytes(kernel_block, shape.value_size)),
          scores(kernel_block, length),
          grad_probabilities(kernel_block, length),
          probabilities(length, length),
          grad_scores(length, length),
          left(1, strips.left_bytes(kernel_block, length)),
          queries(1, strips.right_bytes(shape.head_size, length)),
          grad_outputs(1, strips.right_bytes(shape.value_size, length)),
          grad_query(kernel_block, padded(shape.head_size)),
          grad_key(length, padded(shape.head_size)),
          grad_value(length, padded(shape.value_size)) {}

    Matrix<std::byte> query;         // a packed strip
    Matrix<std::byte> grad_output;   // a packed strip
    Matrix<Sum> scores;              // [32, L]
    Matrix<Sum> grad_probabilities;  // [32, L]
    Matrix<Scalar> probabilities;    // [L, L]
    Matrix<Scalar> grad_scores;      // [L, L]
    Matrix<std::byte> left;          // a packed strip of one of the two
    Matrix<std::byte> queries;       // [L, D] packed as right operand
    Matrix<std::byte> grad_outputs;  // [L, Dv]
    Matrix<Sum> grad_query;          // [32, D]
    Matrix<Sum> grad_key;            // [L, D]
    Matrix<Sum> grad_value;          // [L, Dv]
};

template <class Scalar>
struct Gradients {
    using Sum = accumulator_t<Scalar>;
    MatrixView<Sum> query;
    MatrixView<Sum> key;
    MatrixView<Sum> value;
};

template <class Scalar>
class Backward {
public:
    using Sum = accumulator_t<Scalar>;

    Backward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<Scalar>& in,
             MatrixView<const Sum> log_sum, MatrixView<const Scalar> grad_output, const Gradients<Scalar>& grads)
        : row_kernels_(kernels.elementwise<Scalar>()),
          strips_(kernels),
          shape_(shape),
          in_(in),
          log_sum_(log_sum),
          grad_output_(grad_output),
          grads_(grads),
          delta_(grad_output.rows(), shape.heads),
          keys_along_size_(strips_, shape.kv_heads, in.offsets, in.key.rounded, Along::size),
          keys_along_rows_(strips_, shape.kv_heads, in.offsets, in.key.rounded, Along::rows),
          values_(strips_, shape.kv_heads, in.offsets, in.value.rounded, Along::size) {}

    void run(MatrixView<const Scalar> output) {
        start_sums(output);
        const index_t length = block_length(shape_, in_.offsets);
        const std::vector<std::vector<Task>> rounds = make_rounds(shape_, in_.offsets, length);
        const int threads = omp_get_max_threads();
        // Nothing in the parallel region allocates, so that no exception can leave it.
        std::vector<Scratch<Scalar>> scratch;
        for (int t = 0; t < threads; ++t) {
            scratch.emplace_back(strips_, length, shape_);
        }
#pragma omp parallel num_threads(threads)
        {
            const typename AttentionStrips<Scalar>::TileState tiles(strips_.products());
            for (const std::vector<Task>& round : rounds) {
                compute(round, scratch[static_cast<std::size_t>(omp_get_thread_num())]);
#pragma omp barrier  // the next round adds to the same gradients
            }
        }
    }

private:
    /// Gradients start from zero; delta = <dL/doutput, output> of each row and head.
    void start_sums(MatrixView<const Scalar> output) {
        const index_t size = shape_.value_size;
#pragma omp parallel for schedule(static)
        for (index_t row = 0; row < output.rows(); ++row) {
            for (const MatrixView<Sum>& gradient : {grads_.query, grads_.key, grads_.value}) {
                std::fill_n(gradient[row], gradient.cols(), Sum(0));
            }
            for (index_t head = 0; head < shape_.heads; ++head) {
                delta_.view()(row, head) =
                    row_kernels_.dot(size, output[row] + head * size, grad_output_[row] + head * size);
            }
        }
    }

    /// What the calling thread computes of a round.
    void compute(const std::vector<Task>& round, Scratch<Scalar>& scratch) const {
        const auto share = core::trace::Scope::share_of(core::scopes::attention_backward);
        const auto count = static_cast<index_t>(round.size());
#pragma omp for schedule(dynamic, 1) nowait
        for (index_t t = 0; t < count; ++t) {
            compute(round[static_cast<std::size_t>(t)], scratch);
        }
    }

    void compute(const Task& task, Scratch<Scalar>& scratch) const {
        const index_t group = shape_.heads / shape_.kv_heads;
        const index_t first_head = task.kv_head * group;
        for (index_t head = first_head; head < first_head + group; ++head) {
            for (index_t row = 0; row < task.queries; row += kernel_block) {
                add_to_queries(task, scratch, head, row);
            }
            add_to_keys(task, scratch, head, head > first_head);
        }
        for (index_t i = 0; i < task.keys; ++i) {
            const index_t row = in_.offsets[task.sequence] + task.key + i;
            Sum* const grad_key = grads_.key[row] + task.kv_head * shape_.head_size;
            Sum* const grad_value = grads_.value[row] + task.kv_head * shape_.value_size;
            row_kernels_.add(shape_.head_size, scratch.grad_key.view()[i], grad_key, grad_key);
            row_kernels_.add(shape_.value_size, scratch.grad_value.view()[i], grad_value, grad_value);
        }
    }

    /// The rows of one head of a matrix [T, heads * size] that belong to the queries of a task.
    [[nodiscard]] MatrixView<const Scalar> rows_of(MatrixView<const Scalar> all, const Task& task, index_t head,
                                                   index_t row, index_t rows) const {
        const index_t size = all.cols() / shape_.heads;
        return all.rows(in_.offsets[task.sequence] + task.query + row, rows).columns(head * size, size);
    }

    /// Probabilities and gradients of scores of a strip of queries from `row` of the block on; adds what they give to
    /// the gradients of these queries.
    void add_to_queries(const Task& task, Scratch<Scalar>& scratch, index_t head, index_t row) const {
        const index_t size = shape_.head_size;
        const index_t rows = std::min(kernel_block, task.queries - row);
        const index_t keys = task.is_diagonal() ? row + rows : task.keys;
        strips_.pack_left_rows(rows_of(in_.query.rounded, task, head, row, rows), scratch.query.data());
        strips_.pack_left_rows(rows_of(grad_output_, task, head, row, rows), scratch.grad_output.data());
        const auto scores = top_left(scratch.scores, rows, keys);
        const auto grad_probabilities = top_left(scratch.grad_probabilities, rows, keys);
        strips_.multiply(size, scratch.query.data(), keys_along_size_.at(task.sequence, task.kv_head, task.key),
                         keys_along_size_.strip_bytes(task.sequence), scores, false);
        strips_.multiply(shape_.value_size, scratch.grad_output.data(),
                         values_.at(task.sequence, task.kv_head, task.key), values_.strip_bytes(task.sequence),
                         grad_probabilities, false);
        const auto probabilities = top_left(scratch.probabilities, row + rows, keys).rows(row, rows);
        const auto grad_scores = top_left(scratch.grad_scores, row + rows, keys).rows(row, rows);
        const index_t first_row = in_.offsets[task.sequence] + task.query + row;
        for (index_t i = 0; i < rows; ++i) {
            const index_t end = task.is_diagonal() ? row + i + 1 : keys;
            const index_t begin = std::clamp(shape_.first_key(task.query + row + i) - task.key, index_t{0}, end);
            row_kernels_.softmax_backward(end - begin, scores[i] + begin, grad_probabilities[i] + begin,
                                          static_cast<Sum>(shape_.scale), log_sum_(first_row + i, head),
                                          delta_.view()(first_row + i, head), probabilities[i] + begin,
                                          grad_scores[i] + begin);
            for (Scalar* const all : {probabilities[i], grad_scores[i]}) {
                std::fill(all, all + begin, static_cast<Scalar>(Sum(0)));
                std::fill(all + end, all + keys, static_cast<Scalar>(Sum(0)));
            }
        }
        strips_.pack_left_rows(grad_scores, scratch.left.data());
        const auto sums = top_left(scratch.grad_query, rows, size);
        strips_.multiply(keys, scratch.left.data(), keys_along_rows_.at(task.sequence, task.kv_head, task.key),
                         keys_along_rows_.strip_bytes(task.sequence), sums, false);
        for (index_t i = 0; i < rows; ++i) {
            Sum* const grad_query = grads_.query[first_row + i] + head * size;
            row_kernels_.add(size, sums[i], grad_query, grad_query);
        }
    }

    /// What the queries of one head give to the gradients of the keys and values of a task.
    void add_to_keys(const Task& task, Scratch<Scalar>& scratch, index_t head, bool accumulate) const {
        const index_t strip_bytes = strips_.right_bytes(kernel_block, task.queries);
        strips_.pack_right_columns(rows_of(in_.query.rounded, task, head, 0, task.queries), scratch.queries.data(),
                                   strip_bytes);
        strips_.pack_right_columns(rows_of(grad_output_, task, head, 0, task.queries), scratch.grad_outputs.data(),
                                   strip_bytes);
        const auto add = [&](Matrix<Scalar>& weights, index_t key, index_t keys, const std::byte* right,
                             Matrix<Sum>& sums, index_t size) {
            const index_t hidden = task.is_diagonal() ? key : 0;  // queries before the first of these keys
            const index_t rows = task.queries - hidden;
            strips_.pack_left_columns(top_left(weights, task.queries, task.keys).rows(hidden, rows).columns(key, keys),
                                      scratch.left.data());
            strips_.multiply(rows, scratch.left.data(), right + strips_.right_bytes(hidden, kernel_block), strip_bytes,
                             top_left(sums, key + keys, size).rows(key, keys), accumulate);
        };
        for (index_t key = 0; key < task.keys; key += kernel_block) {
            const index_t keys = std::min(kernel_block, task.keys - key);
            add(scratch.grad_scores, key, keys, scratch.queries.data(), scratch.grad_key, shape_.head_size);
            add(scratch.probabilities, key, keys, scratch.grad_outputs.data(), scratch.grad_value, shape_.value_size);
        }
    }

    const kernels::ElementwiseKernels<Scalar>& row_kernels_;
    AttentionStrips<Scalar> strips_;
    AttentionShape shape_;
    AttentionInputs<Scalar> in_;
    MatrixView<const Sum> log_sum_;
    MatrixView<const Scalar> grad_output_;
    Gradients<Scalar> grads_;
    Matrix<Sum> delta_;  // [T, heads]
    PackedHeads<Scalar> keys_along_size_;
    PackedHeads<Scalar> keys_along_rows_;
    PackedHeads<Scalar> values_;
};

}  // namespace

std::vector<BufferPlan> plan_attention_backward(const AttentionShape& shape) {
    const index_t of_row = shape.kv_heads * (2 * padded(shape.head_size) + padded(shape.value_size));
    const index_t packed = longest_block * (padded(shape.head_size) + padded(shape.value_size) + kernel_block);
    return {{"attention.delta", Rows::own, Element::sum, shape.heads, true},
            {"attention.packed", Rows::own, Element::packed, of_row, true},
            {"attention.scores", Rows::threads, Element::scalar, 2 * longest_block * longest_block, true},
            {"attention.operands", Rows::threads, Element::packed, packed, true},
            {"attention.sums", Rows::threads, Element::sum, packed, true}};
}

template <class Scalar>
void attention_backward(const kernels::KernelSet& kernels, const AttentionShape& shape,
                        const AttentionInputs<Scalar>& in, MatrixView<const Scalar> output,
                        MatrixView<const accumulator_t<Scalar>> log_sum, MatrixView<const Scalar> grad_output,
                        MatrixView<accumulator_t<Scalar>> grad_query, MatrixView<accumulator_t<Scalar>> grad_key,
                        MatrixView<accumulator_t<Scalar>> grad_value) {
    const core::trace::Scope scope(core::scopes::attention_backward);
    Backward<Scalar>(kernels, shape, in, log_sum, grad_output, {grad_query, grad_key, grad_value}).run(output);
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                 \
    template void attention_backward<Scalar>(                                                                       \
        const kernels::KernelSet&, const AttentionShape&, const AttentionInputs<Scalar>&, MatrixView<const Scalar>, \
        MatrixView<const accumulator_t<Scalar>>, MatrixView<const Scalar>, MatrixView<accumulator_t<Scalar>>,       \
        MatrixView<accumulator_t<Scalar>>, MatrixView<accumulator_t<Scalar>>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
