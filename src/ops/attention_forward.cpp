// Attention forward with a running softmax over blocks of keys: Milakov and Gimelshein, "Online normalizer calculation
// for softmax", 2018; Dao, "FlashAttention-2", 2023.
#include "core/trace.hpp"
#include "ops/attention.hpp"
#include "ops/attention_strips.hpp"
#include "ops/elementwise.hpp"

#include <omp.h>

#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

namespace moesaic::ops {
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
template <class Scalar>
struct Scratch {
    using Sum = accumulator_t<Scalar>;

    Scratch(const AttentionStrips<Scalar>& strips, index_t strip_count, const AttentionShape& shape, index_t parts)
        : queries(parts * strip_count, strips.left_bytes(kernel_block, shape.head_size)),
          results(strip_count * kernel_block, padded(shape.value_size)),
          largest(strip_count, kernel_block),
          sums(strip_count, kernel_block),
          scores(kernel_block, key_block),
          probabilities(parts * kernel_block, key_block),
          packed_probabilities(parts, strips.left_bytes(kernel_block, key_block)) {}

    Matrix<std::byte> queries;     // packed strips: those of all parts of a strip follow each other
    Matrix<Sum> results;           // [strips * 32, Dv] sums of probabilities * values
    Matrix<Sum> largest;           // [strips, 32] scaled score of each row
    Matrix<Sum> sums;              // [strips, 32] of probabilities
    Matrix<Sum> scores;            // [32, key_block]; then probabilities, relative to exp(largest)
    Matrix<Scalar> probabilities;  // [parts * 32, key_block]
    Matrix<std::byte> packed_probabilities;
};

/// Heads of keys or values in all parts, packed.
template <class Scalar>
class PackedParts {
public:
    PackedParts(const AttentionStrips<Scalar>& strips, index_t kv_heads, std::span<const index_t> offsets,
                const SplitOperand<Scalar>& heads, Along along)
        : high_(strips, kv_heads, offsets, heads.high, along) {
        if (!heads.low.empty()) {
            low_.emplace(strips, kv_heads, offsets, heads.low, along);
        }
    }
    [[nodiscard]] typename AttentionStrips<Scalar>::Parts at(std::size_t sequence, index_t head, index_t row) const {
        return {high_.at(sequence, head, row), low_ ? low_->at(sequence, head, row) : nullptr};
    }
    [[nodiscard]] index_t strip_bytes(std::size_t sequence) const { return high_.strip_bytes(sequence); }

private:
    PackedHeads<Scalar> high_;
    std::optional<PackedHeads<Scalar>> low_;
};

template <class Scalar>
class Forward {
public:
    using Sum = accumulator_t<Scalar>;

    Forward(const kernels::KernelSet& kernels, const AttentionShape& shape, const AttentionInputs<Scalar>& in,
            MatrixView<Scalar> output, MatrixView<Sum> exact_output, MatrixView<Sum> log_sum)
        : row_kernels_(kernels.elementwise<Sum>()),
          rounding_kernels_(kernels.elementwise<Scalar>()),
          parts_(kernels.operand_parts<Scalar>()),
          strips_(kernels),
          shape_(shape),
          offsets_(in.offsets),
          output_(output),
          exact_output_(exact_output),
          log_sum_(log_sum),
          query_(split<Scalar>(kernels, in.query, query_storage_)),
          keys_(strips_, shape.kv_heads, in.offsets, split<Scalar>(kernels, in.key, heads_storage_), Along::size),
          values_(strips_, shape.kv_heads, in.offsets, split<Scalar>(kernels, in.value, heads_storage_), Along::rows) {}

    void run() {
        const std::vector<Task> tasks = make_tasks();
        const auto count = static_cast<index_t>(tasks.size());
        const int threads = omp_get_max_threads();
        // Nothing in the parallel region allocates, so that no exception can leave it.
        std::vector<Scratch<Scalar>> scratch;
        for (int t = 0; t < threads; ++t) {
            scratch.emplace_back(strips_, group() * blocks_of(task_rows()), shape_, parts_);
        }
#pragma omp parallel num_threads(threads)
        {
            const auto share = core::trace::Scope::share_of(core::scopes::attention_forward);
            const typename AttentionStrips<Scalar>::TileState tiles(strips_.products());
#pragma omp for schedule(dynamic, 1) nowait
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
        return group() >= 4 ? kernel_block : 4 * kernel_block;
    }

    [[nodiscard]] std::vector<Task> make_tasks() const {
        std::vector<Task> tasks;
        for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
            const index_t length = offsets_[s + 1] - offsets_[s];
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
            for (index_t row = 0; row < task.rows; row += kernel_block, ++strip) {
                body(strip, head, task.first + row, std::min(kernel_block, task.rows - row));
            }
        }
    }

    void compute(const Task& task, Scratch<Scalar>& scratch) const {
        const index_t begin = offsets_[task.sequence];
        const index_t size = shape_.head_size;
        for_each_strip(task, [&](index_t strip, index_t head, index_t first, index_t rows) {
            const auto pack = [&](MatrixView<const Scalar> queries, index_t part) {
                strips_.pack_left_rows(queries.rows(begin + first, rows).columns(head * size, size),
                                       scratch.queries.view()[strip * parts_ + part]);
            };
            pack(query_.high, 0);
            if (parts_ == 2) {
                pack(query_.low, 1);
            }
        });
        scratch.largest.fill(-std::numeric_limits<Sum>::infinity());
        scratch.sums.fill(Sum(0));
        const index_t first_block = shape_.first_key(task.first) / key_block * key_block;
        for (index_t key = first_block; key < task.first + task.rows; key += key_block) {
            for_each_strip(task, [&](index_t strip, index_t, index_t first, index_t rows) {
                const index_t keys = std::min(key_block, first + rows - key);
                if (keys > 0) {
                    add_keys(task, scratch, {strip, first, rows, key, keys, key == first_block});
                }
            });
        }
        for_each_strip(task, [&](index_t strip, index_t head, index_t first, index_t rows) {
            for (index_t i = 0; i < rows; ++i) {
                const index_t row = begin + first + i;
                const Sum sum = scratch.sums.view()(strip, i);
                const Sum* results = scratch.results.view()[strip * kernel_block + i];
                const index_t column = head * shape_.value_size;
                rounding_kernels_.scale_narrow(shape_.value_size, Sum(1) / sum, results, output_[row] + column);
                if (!exact_output_.empty()) {
                    row_kernels_.scale_narrow(shape_.value_size, Sum(1) / sum, results, exact_output_[row] + column);
                }
                log_sum_(row, head) = scratch.largest.view()(strip, i) + std::log(sum);
            }
        });
    }

    /// A strip of queries with a block of keys; rows of both are counted from the start of the sequence.
    struct Meeting {
        index_t strip;
        index_t first;  ///< query
        index_t rows;
        index_t key;  ///< first key
        index_t keys;
        bool starts;  ///< these are the first keys of the strip
    };

    /// Adds keys to the sums of a strip.
    void add_keys(const Task& task, Scratch<Scalar>& scratch, const Meeting& at) const {
        const auto scores = top_left(scratch.scores, at.rows, at.keys);
        const index_t first_result = at.strip * kernel_block;
        const MatrixView<Sum> results =
            top_left(scratch.results, first_result + at.rows, shape_.value_size).rows(first_result, at.rows);
        strips_.multiply(shape_.head_size, parts_at(scratch.queries, at.strip),
                         keys_.at(task.sequence, task.kv_head, at.key), keys_.strip_bytes(task.sequence), scores,
                         false);
        const auto probabilities = top_left(scratch.probabilities, parts_ * at.rows, at.keys);
        for (index_t i = 0; i < at.rows; ++i) {
            const MatrixView<Sum> earlier = at.starts ? MatrixView<Sum>() : results.rows(i, 1);
            if (parts_ == 1) {
                add_scores(rounding_kernels_, scratch, at, i, scores[i], probabilities[i], earlier);
            } else {
                add_scores(row_kernels_, scratch, at, i, scores[i], scores[i], earlier);
                rounding_kernels_.split(at.keys, scores[i], probabilities[i], probabilities[at.rows + i]);
            }
        }
        for (index_t part = 0; part < parts_; ++part) {
            strips_.pack_left_rows(probabilities.rows(part * at.rows, at.rows),
                                   scratch.packed_probabilities.view()[part]);
        }
        strips_.multiply(at.keys, parts_at(scratch.packed_probabilities, 0),
                         values_.at(task.sequence, task.kv_head, at.key), values_.strip_bytes(task.sequence), results,
                         !at.starts);
    }

    /// Strips of all parts of operand `i`.
    [[nodiscard]] typename AttentionStrips<Scalar>::Parts parts_at(const Matrix<std::byte>& packed, index_t i) const {
        const std::byte* high = packed.view()[i * parts_];
        return {high, parts_ == 2 ? packed.view()[i * parts_ + 1] : nullptr};
    }

    /// Turns the scores of query `i` of a meeting into probabilities relative to the largest score so far, to which the
    /// row's earlier results [1, Dv] (empty if there are none) are rescaled. They may take the place of the scores.
    template <class Out>
    void add_scores(const kernels::ElementwiseKernels<Out>& kernels, Scratch<Scalar>& scratch, const Meeting& at,
                    index_t i, const Sum* scores, Out* probabilities, MatrixView<Sum> results) const {
        const index_t query = at.first + i;
        const index_t end = std::min(at.keys, query + 1 - at.key);
        const index_t begin = std::clamp(shape_.first_key(query) - at.key, index_t{0}, end);
        std::fill(probabilities, probabilities + begin, static_cast<Out>(Sum(0)));
        std::fill(probabilities + end, probabilities + at.keys, static_cast<Out>(Sum(0)));
        if (begin == end) {
            return;
        }
        const auto scale = static_cast<Sum>(shape_.scale);
        Sum& running_sum = scratch.sums.view()(at.strip, i);
        Sum& running_largest = scratch.largest.view()(at.strip, i);
        const Sum old = running_largest;
        const Sum largest = std::max(old, scale * row_kernels_.largest(end - begin, scores + begin));
        const Sum sum = kernels.exp(end - begin, scores + begin, scale, largest, Sum(1), probabilities + begin);
        if (largest > old && !results.empty()) {
            const Sum correction = std::exp(old - largest);
            running_sum *= correction;
            row_kernels_.scale(results.cols(), correction, results.data());
        }
        running_sum += sum;
        running_largest = largest;
    }

    const kernels::ElementwiseKernels<Sum>& row_kernels_;
    const kernels::ElementwiseKernels<Scalar>& rounding_kernels_;
    index_t parts_;  ///< of operands
    AttentionStrips<Scalar> strips_;
    AttentionShape shape_;
    std::span<const index_t> offsets_;
    MatrixView<Scalar> output_;
    MatrixView<Sum> exact_output_;
    MatrixView<Sum> log_sum_;
    SplitStorage<Scalar> query_storage_;
    SplitStorage<Scalar> heads_storage_;  // of keys, then of values
    SplitOperand<Scalar> query_;
    PackedParts<Scalar> keys_;
    PackedParts<Scalar> values_;
};

}  // namespace

std::vector<BufferPlan> plan_attention_forward(const AttentionShape& shape) {
    const index_t packed = shape.kv_heads * (padded(shape.head_size) + padded(shape.value_size));
    return {{"attention.query_parts", Rows::own, Element::parts, shape.heads * shape.head_size},
            {"attention.heads_parts", Rows::own, Element::parts,
             shape.kv_heads * std::max(shape.head_size, shape.value_size)},
            {"attention.packed", Rows::own, Element::packed, packed},
            {"attention.packed_low", Rows::own, Element::packed_low, packed}};
}

template <class Scalar>
void attention_forward(const kernels::KernelSet& kernels, const AttentionShape& shape,
                       const AttentionInputs<Scalar>& in, MatrixView<Scalar> output,
                       MatrixView<accumulator_t<Scalar>> exact_output, MatrixView<accumulator_t<Scalar>> log_sum) {
    const core::trace::Scope scope(core::scopes::attention_forward);
    Forward<Scalar>(kernels, shape, in, output, exact_output, log_sum).run();
}

#define MOESAIC_INSTANTIATE(Scalar)                                                             \
    template void attention_forward<Scalar>(const kernels::KernelSet&, const AttentionShape&,   \
                                            const AttentionInputs<Scalar>&, MatrixView<Scalar>, \
                                            MatrixView<accumulator_t<Scalar>>, MatrixView<accumulator_t<Scalar>>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
