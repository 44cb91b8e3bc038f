// Gradients of the LoRA factors of grouped experts: sums over the tokens of an expert, L^T Z, where L [tokens, R] is a
// low-rank activation or gradient and Z [tokens, width] what the other dimension of A or B stands for.
//
//            gate and up                              down
//     dA     L = d gate B or d up B, Z = x            L = g B,     Z = h
//     dB^T   L = x A^T,  Z = d gate or d up           L = h A^T,   Z = g
//
// An item goes through the chunks of one expert in order, for some columns of one Z: the sum does not depend on
// threads.
#include "ops/grouped_experts.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace moesaic::ops {

using core::bf16;

namespace {

constexpr std::array all_operands = {GradientOperand::hidden_of_up, GradientOperand::hidden,
                                     GradientOperand::grad_gate,    GradientOperand::grad_up,
                                     GradientOperand::activation,   GradientOperand::grad_output};

bool has_hidden_size(GradientOperand operand) {
    return operand == GradientOperand::hidden || operand == GradientOperand::hidden_of_up ||
           operand == GradientOperand::grad_output;
}

/// Chunks [first, last) of one expert, and columns [first_block, last_block) of one Z.
struct GradientItem {
    GradientOperand operand;
    index_t first_chunk;
    index_t last_chunk;
    index_t first_block;
    index_t last_block;
    double work;
};

/// Largest first; those of a hot expert are for all threads. How they are cut does not change results.
std::vector<GradientItem> gradient_items(const std::vector<RowChunk>& chunks, index_t hidden_blocks,
                                         index_t intermediate_blocks, bool has_dropout, int threads) {
    const std::span<const GradientOperand> operands = std::span(all_operands).subspan(has_dropout ? 0 : 1);
    const auto blocks_of_operand = [&](GradientOperand operand) {
        return has_hidden_size(operand) ? hidden_blocks : intermediate_blocks;
    };
    double all_blocks = 0;
    for (const GradientOperand operand : operands) {
        all_blocks += static_cast<double>(blocks_of_operand(operand));
    }
    double rows_of_all = 0;
    for (const RowChunk& chunk : chunks) {
        rows_of_all += static_cast<double>(chunk.rows);
    }
    const double largest =
        rows_of_all * all_blocks / static_cast<double>(threads == 1 ? 1 : core::items_per_thread * threads);
    std::vector<GradientItem> items;
    for (std::size_t first = 0, last = 0; first < chunks.size(); first = last) {
        double rows = 0;
        for (; last < chunks.size() && chunks[last].expert == chunks[first].expert; ++last) {
            rows += static_cast<double>(chunks[last].rows);
        }
        for (const GradientOperand operand : operands) {
            const index_t blocks = blocks_of_operand(operand);
            const double work = rows * static_cast<double>(blocks);
            const auto ranges = std::clamp(static_cast<index_t>(std::ceil(work / largest)), index_t{1}, blocks);
            for (index_t range = 0; range < ranges; ++range) {
                items.push_back({operand, static_cast<index_t>(first), static_cast<index_t>(last),
                                 blocks * range / ranges, blocks * (range + 1) / ranges,
                                 work / static_cast<double>(ranges)});
            }
        }
    }
    std::stable_sort(items.begin(), items.end(),
                     [](const GradientItem& a, const GradientItem& b) { return a.work > b.work; });
    return items;
}

}  // namespace

/// The terms that share one Z.
template <class Scalar>
std::vector<typename GroupedExperts<Scalar>::LoraTerm> GroupedExperts<Scalar>::terms_of(
    GradientOperand operand, const PreActivations<Scalar>& kept) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    switch (operand) {
        case GradientOperand::hidden:
            if (!has_dropout()) {
                return {{Projection::gate, LoraFactor::a, nullptr, work.grad_low_rank[0].data()},
                        {Projection::up, LoraFactor::a, nullptr, work.grad_low_rank[1].data()}};
            }
            return {{Projection::gate, LoraFactor::a, nullptr, work.grad_low_rank[0].data()}};
        case GradientOperand::hidden_of_up:
            return {{Projection::up, LoraFactor::a, nullptr, work.grad_low_rank[1].data()}};
        case GradientOperand::grad_gate:
            return {{Projection::gate, LoraFactor::b, kept.low_rank[0].data(), nullptr}};
        case GradientOperand::grad_up:
            return {{Projection::up, LoraFactor::b, kept.low_rank[1].data(), nullptr}};
        case GradientOperand::activation:
            return {{Projection::down, LoraFactor::a, nullptr, work.grad_low_rank[2].data()}};
        case GradientOperand::grad_output:
            return {{Projection::down, LoraFactor::b, nullptr, work.low_rank_down.data()}};
    }
    return {};
}

template <class Scalar>
void GroupedExperts<Scalar>::lora_gradients(const SavedExperts<Scalar>& saved, const PreActivations<Scalar>& kept,
                                            MatrixView<const Scalar> grad_output) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_lora_gradients);
    const int threads = core::threads_for(static_cast<double>(work.rows_out.size()));
    const std::vector<GradientItem> items =
        gradient_items(work.chunks, hidden_blocks_, intermediate_blocks_, has_dropout(), threads);
    work.of_thread.resize(std::max(work.of_thread.size(), static_cast<std::size_t>(threads)));
    core::parallel_for(static_cast<index_t>(items.size()), threads, [&](index_t i) {
        const GradientItem& item = items[static_cast<std::size_t>(i)];
        const typename StripProducts<Scalar>::TileState tiles(products_);
        ThreadScratch<Scalar>& scratch = work.of_thread[static_cast<std::size_t>(omp_get_thread_num())];
        const std::vector<LoraTerm> terms = terms_of(item.operand, kept);
        const index_t expert = work.chunks[static_cast<std::size_t>(item.first_chunk)].expert;
        const index_t cols = item.last_block - item.first_block;
        const auto results = static_cast<index_t>(terms.size()) * lora_rank_blocks_;
        const index_t stride = cols * kernel_block + 16;  // no multiple of 1 KiB, whose lines collide in L1
        Sum* sums = scratch.sums[0].reserve(static_cast<std::size_t>(results * kernel_block * stride));
        for (index_t c = item.first_chunk; c < item.last_chunk; ++c) {
            const RowChunk& chunk = work.chunks[static_cast<std::size_t>(c)];
            const Strips left = products_.left_strips(scratch.tokens, results, chunk.strips());
            for (index_t r = 0; r < results; ++r) {
                pack_low_rank(terms[static_cast<std::size_t>(r / lora_rank_blocks_)], chunk, r % lora_rank_blocks_,
                              left.at(r));
            }
            const BlockRun<Scalar> run =
                operand_blocks(item.operand, saved, grad_output, chunk, item.first_block, item.last_block, scratch);
            const Strips right = products_.right_strips(scratch.panel, 1, chunk.strips());
            for (index_t col = 0; col < cols; ++col) {
                products_.pack_right(right.data,
                                     products_.columns({run.first + col * block_elements, run.step, run.blocks},
                                                       kernel_block, chunk.rows));
                for (index_t r = 0; r < results; ++r) {
                    const index_t count = extent_of_block(this->config().lora_rank, r % lora_rank_blocks_);
                    products_.strip_by_strip(left.at(r), count, right.data, kernel_block, chunk.rows,
                                             sums + r * kernel_block * stride + col * kernel_block, stride,
                                             c > item.first_chunk);
                }
            }
        }
        for (std::size_t t = 0; t < terms.size(); ++t) {
            Sum* of_term = sums + static_cast<index_t>(t) * lora_rank_blocks_ * kernel_block * stride;
            add_to_gradient(terms[t], expert, item.first_block, cols, of_term, stride, scratch);
        }
    });
}

/// Block `block` of L's features as left operand: vectors are features, k the chunk's tokens.
template <class Scalar>
void GroupedExperts<Scalar>::pack_low_rank(const LoraTerm& term, const RowChunk& chunk, index_t block,
                                           std::byte* strip) const {
    const index_t lora_rank = this->config().lora_rank;
    const index_t count = extent_of_block(lora_rank, block);
    if (term.by_feature != nullptr) {
        const Scalar* first = term.by_feature + lora_rank * chunk.begin + block * kernel_block * chunk.rows;
        products_.pack_left(strip, products_.rows(first, chunk.rows, count, chunk.rows));
        return;
    }
    const index_t step = lora_rank_blocks_ * block_elements;
    const Scalar* first = term.blocks + chunk.first_strip * step + block * block_elements;
    products_.pack_left(strip, products_.columns({first, step, chunk.strips()}, count, chunk.rows));
}

/// Column blocks [first, last) of Z of one chunk: run block s is strip s, and the columns follow it.
template <class Scalar>
BlockRun<Scalar> GroupedExperts<Scalar>::operand_blocks(GradientOperand operand, const SavedExperts<Scalar>& saved,
                                                        MatrixView<const Scalar> grad_output, const RowChunk& chunk,
                                                        index_t first, index_t last, ThreadScratch<Scalar>& scratch) {
    const ExpertWorkspace<Scalar>& work = this->workspace();
    if (has_hidden_size(operand)) {
        const index_t cols = last - first;
        Scalar* gathered = scratch.rows.reserve(static_cast<std::size_t>(chunk.strips() * cols * block_elements));
        gather_blocks(saved.routed, operand == GradientOperand::grad_output ? grad_output : saved.hidden, chunk, first,
                      last, gathered);
        if (has_dropout() && operand != GradientOperand::grad_output) {
            const Projection p = operand == GradientOperand::hidden ? Projection::gate : Projection::up;
            drop_blocks(mask_of(p, chunk.expert), chunk, first, last, gathered);
        }
        return {gathered, cols * block_elements, chunk.strips()};
    }
    const core::Buffer<Scalar>& blocks = operand == GradientOperand::activation  ? work.activation
                                         : operand == GradientOperand::grad_gate ? work.grad_pre_activations[0]
                                                                                 : work.grad_pre_activations[1];
    return {blocks.data() + (chunk.first_strip * intermediate_blocks_ + first) * block_elements,
            intermediate_blocks_ * block_elements, chunk.strips()};
}

/// Applies a mask to blocks [strips][last - first][32, 32] of the chunk's rows.
template <class Scalar>
void GroupedExperts<Scalar>::drop_blocks(const DropoutMask& mask, const RowChunk& chunk, index_t first, index_t last,
                                         Scalar* blocks) const {
    for (index_t row = 0; row < chunk.rows; ++row) {
        const std::uint64_t token = this->workspace().row_tokens[static_cast<std::size_t>(chunk.begin + row)];
        for (index_t b = first; b < last; ++b) {
            Scalar* of_row = blocks + (row / kernel_block * (last - first) + b - first) * block_elements +
                             row % kernel_block * kernel_block;
            mask.apply(token, b * kernel_block, kernel_block, of_row);
        }
    }
}

/// Adds L^T Z, column blocks [first, first + count), to the gradient: A is [R, width]; B is [width, R], so that it
/// takes the transpose. The scale is in L where that is the activation x A^T; else `sums` [R, stride] are scaled.
template <class Scalar>
void GroupedExperts<Scalar>::add_to_gradient(const LoraTerm& term, index_t expert, index_t first, index_t count,
                                             Sum* sums, index_t stride, ThreadScratch<Scalar>& scratch) const {
    const index_t lora_rank = this->config().lora_rank;
    const auto& gradients = this->gradients()[term.projection];
    const index_t begin = first * kernel_block;
    if (term.factor == LoraFactor::a) {
        const index_t width = std::min(count * kernel_block, gradients.a.cols() - begin);
        const Sum scale = static_cast<Sum>(this->config().lora_scale(term.projection, expert));
        for (index_t r = 0; r < lora_rank; ++r) {
            Sum* row = sums + r * stride;
            Sum* gradient = gradients.a[expert * lora_rank + r] + begin;
            elementwise_.scale(width, scale, row);
            elementwise_.add(width, row, gradient, gradient);
        }
        return;
    }
    const index_t rows = gradients.b.rows() / this->config().experts;
    const index_t width = std::min(count * kernel_block, rows - begin);
    Sum* transposed = scratch.sums[1].reserve(static_cast<std::size_t>(width * lora_rank));
    elementwise_of_sums_.transpose_narrow(lora_rank, width, sums, stride, transposed, lora_rank);
    for (index_t row = 0; row < width; ++row) {
        Sum* gradient = gradients.b[expert * rows + begin + row];
        elementwise_.add(lora_rank, transposed + row * lora_rank, gradient, gradient);
    }
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                                  \
    template void GroupedExperts<Scalar>::lora_gradients(const SavedExperts<Scalar>&, const PreActivations<Scalar>&, \
                                                         MatrixView<const Scalar>);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
