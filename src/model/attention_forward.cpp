// Attention forward with a running softmax over blocks of keys: Milakov and Gimelshein, "Online normalizer calculation
// for softmax", 2018; Dao, "FlashAttention-2", 2023.
#include "core/trace.hpp"
#include "model/attention.hpp"
#include "model/attention_strips.hpp"

#include <omp.h>

#include <cmath>
#include <limits>

namespace moesaic::model {
namespace {

using core::bf16;
using core::Matrix;

/// Keys that are worked on together: their packed strips stay in the L2 cache for all heads of a group.
constexpr index_t key_block = 256;

/// Queries of all heads that share a key head, from `first` on in one sequence.
struct Task {
    std::size_t sequence;
    index_t kv_head;
    index_t first;
    index_t rows;
};

/// Working memory of one thread.
template <class T>
struct Scratch {
    using A = accumulator_t<T>;

    Scratch(const AttentionStrips<T>& strips, index_t strip_count, index_t head_size)
        : queries(strip_count, strips.left_bytes(block_size, head_size)),
          results(strip_count * block_size, padded(head_size)),
          largest(strip_count, block_size),
          sums(strip_count, block_size),
          scores(block_size, key_block),
          probabilities(block_size, key_block),
          packed_probabilities(1, strips.left_bytes(block_size, key_block)) {}

    Matrix<std::byte> queries;  // packed strips
    Matrix<A> results;          // [strips * 32, D] sums of probabilities * values
    Matrix<A> largest;          // [strips, 32] scaled score of each row
    Matrix<A> sums;             // [strips, 32] of probabilities
    Matrix<A> scores;           // [32, key_block]
    Matrix<T> probabilities;    // [32, key_block], relative to exp(largest)
    Matrix<std::byte> packed_probabilities;
};

template <class T>
class Forward {
public:
    using A = accumulator_t<T>;

    Forward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<T>& in,
            MatrixView<T> output, MatrixView<A> log_sum)
        : row_kernels_(kernels.elementwise<T>()),
          strips_(kernels),
          shape_(shape),
          in_(in),
          output_(output),
          log_sum_(log_sum),
          keys_(strips_, shape, in.offsets, in.key, Along::size),
          values_(strips_, shape, in.offsets, in.value, Along::rows) {}

    void run() {
        const std::vector<Task> tasks = make_tasks();
        const auto count = static_cast<index_t>(tasks.size());
        const int threads = omp_get_max_threads();
        // Nothing in the parallel region allocates, so that no exception can leave it.
        std::vector<Scratch<T>> scratch;
        for (int t = 0; t < threads; ++t) {
            scratch.emplace_back(strips_, group() * blocks_of(task_rows()), shape_.head_size);
        }
#pragma omp parallel num_threads(threads)
        {
            const typename AttentionStrips<T>::TileState tiles(strips_.products());
#pragma omp for schedule(dynamic, 1)
            for (index_t t = 0; t < count; ++t) {
                compute(tasks[static_cast<std::size_t>(t)], scratch[static_cast<std::size_t>(omp_get_thread_num())]);
            }
        }
    }

private:
    [[nodiscard]] index_t group() const {
        return shape_.heads / shape_.kv_heads;
    }
    /// Packed keys are read once for the queries of a task: at least 128 rows.
    [[nodiscard]] index_t task_rows() const {
        return group() >= 4 ? block_size : 4 * block_size;
    }

    [[nodiscard]] std::vector<Task> make_tasks() const {
        std::vector<Task> tasks;
        for (std::size_t s = 0; s + 1 < in_.offsets.size(); ++s) {
            const index_t length = in_.offsets[s + 1] - in_.offsets[s];
            for (index_t first = 0; first < length; first += task_rows()) {
                for (index_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
                    tasks.push_back({s, kv_head, first, std::min(task_rows(), length - first)});
                }
            }
        }
        // Later queries of a sequence see more keys: start with the expensive ones.
        std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.first > b.first; });
        return tasks;
    }

    /// Calls body(strip, head, first, rows) for the strips of 32 queries of a task.
    template <class Body>
    void for_each_strip(const Task& task, Body body) const {
        index_t strip = 0;
        for (index_t head = task.kv_head * group(); head < (task.kv_head + 1) * group(); ++head) {
            for (index_t row = 0; row < task.rows; row += block_size, ++strip) {
                body(strip, head, task.first + row, std::min(block_size, task.rows - row));
            }
        }
    }

    void compute(const Task& task, Scratch<T>& scratch) const {
        const index_t begin = in_.offsets[task.sequence];
        const index_t size = shape_.head_size;
        for_each_strip(task, [&](index_t strip, index_t head, index_t first, index_t rows) {
            strips_.pack_left_rows(in_.query.rows(begin + first, rows).columns(head * size, size),
                                   scratch.queries.view()[strip]);
        });
        scratch.largest.fill(-std::numeric_limits<A>::infinity());
        scratch.sums.fill(A(0));
        for (index_t key = 0; key < task.first + task.rows; key += key_block) {
            for_each_strip(task, [&](index_t strip, index_t, index_t first, index_t rows) {
                const index_t keys = std::min(key_block, first + rows - key);
                if (keys > 0) {
                    add_keys(task, scratch, strip, first - key, rows, key, keys);
                }
            });
        }
        for_each_strip(task, [&](index_t strip, index_t head, index_t first, index_t rows) {
            for (index_t i = 0; i < rows; ++i) {
                const index_t row = begin + first + i;
                const A sum = scratch.sums.view()(strip, i);
                row_kernels_.scale_narrow(size, A(1) / sum, scratch.results.view()[strip * block_size + i],
                                          output_[row] + head * size);
                log_sum_(row, head) = scratch.largest.view()(strip, i) + std::log(sum);
            }
        });
    }

    /// Adds `keys` keys from `key` on to the sums of a strip, whose first row sees `before` of them before its own.
    void add_keys(const Task& task, Scratch<T>& scratch, index_t strip, index_t before, index_t rows, index_t key,
                  index_t keys) const {
        const auto scores = part(scratch.scores, rows, keys);
        const auto probabilities = part(scratch.probabilities, rows, keys);
        const MatrixView<A> results =
            part(scratch.results, strip * block_size + rows, shape_.head_size).rows(strip * block_size, rows);
        strips_.multiply(shape_.head_size, scratch.queries.view()[strip], keys_.at(task.sequence, task.kv_head, key),
                         keys_.strip_bytes(task.sequence), scores, false);
        for (index_t i = 0; i < rows; ++i) {
            const index_t visible = std::min(keys, before + i + 1);
            const auto scale = static_cast<A>(shape_.scale);
            A& running_sum = scratch.sums.view()(strip, i);
            A& running_largest = scratch.largest.view()(strip, i);
            const A old = running_largest;
            const A largest = std::max(old, scale * row_kernels_.largest(visible, scores[i]));
            const A sum = row_kernels_.exp(visible, scores[i], scale, largest, A(1), probabilities[i]);
            std::fill(probabilities[i] + visible, probabilities[i] + keys, static_cast<T>(A(0)));
            if (largest > old && key > 0) {
                const A correction = std::exp(old - largest);
                running_sum *= correction;
                row_kernels_.scale(shape_.head_size, correction, results[i]);
            }
            running_sum += sum;
            running_largest = largest;
        }
        strips_.pack_left_rows(probabilities, scratch.packed_probabilities.data());
        strips_.multiply(keys, scratch.packed_probabilities.data(), values_.at(task.sequence, task.kv_head, key),
                         values_.strip_bytes(task.sequence), results, key > 0);
    }

    const kernels::ElementwiseKernels<T>& row_kernels_;
    AttentionStrips<T> strips_;
    AttentionShape shape_;
    AttentionInputs<T> in_;
    MatrixView<T> output_;
    MatrixView<A> log_sum_;
    PackedHeads<T> keys_;
    PackedHeads<T> values_;
};

}  // namespace

template <class T>
void attention_forward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<T>& in,
                       MatrixView<T> output, MatrixView<accumulator_t<T>> log_sum) {
    const core::trace::Scope scope("attention.forward");
    Forward<T>(kernels, shape, in, output, log_sum).run();
}

#define MOESAIC_INSTANTIATE(T)                                                                                      \
    template void attention_forward<T>(const kernels::KernelSet&, const AttentionShape&, const AttentionInputs<T>&, \
                                       MatrixView<T>, MatrixView<accumulator_t<T>>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
