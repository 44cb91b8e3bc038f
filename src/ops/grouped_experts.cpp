#include "ops/grouped_experts.hpp"

#include "core/parallel.hpp"

#include <cstring>
#include <utility>

namespace moesaic::ops {

using core::bf16;

template <class Scalar>
GroupedExperts<Scalar>::GroupedExperts(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<Scalar>> workspace,
                                       const kernels::KernelSet& kernels)
    : ExpertBackend<Scalar>(config, std::move(workspace)),
      products_(kernels),
      integers_(kernels, products_),
      elementwise_(kernels.elementwise<Scalar>()),
      elementwise_of_sums_(kernels.elementwise<Sum>()),
      hidden_blocks_(blocks_of(config.hidden)),
      intermediate_blocks_(blocks_of(config.intermediate)),
      lora_rank_blocks_(blocks_of(this->config().lora_rank)) {}

template <class Scalar>
void GroupedExperts<Scalar>::do_load_weights(const ExpertWeightSource& source) {
    const ExpertConfig& config = this->config();
    for (const Projection p : projections) {
        const bool down = p == Projection::down;
        PackedWeights& all = weights_[static_cast<std::size_t>(p)];
        all =
            PackedWeights(config.weight_format.value_or(format_of<Scalar>), down ? config.hidden : config.intermediate,
                          down ? config.intermediate : config.hidden, config.experts);
    }
    // Matrices are read and packed at once by all threads, so that several reads are in flight.
    core::parallel_for(config.experts * static_cast<index_t>(projections.size()), [&](index_t i) {
        const Projection p = projections[static_cast<std::size_t>(i / config.experts)];
        const index_t expert = i % config.experts;
        source(expert, p, weights_[static_cast<std::size_t>(p)].matrix(expert));
    });
}

template <class Scalar>
std::size_t GroupedExperts<Scalar>::weight_bytes() const noexcept {
    std::size_t bytes = 0;
    for (const PackedWeights& weights : weights_) {
        bytes += weights.bytes();
    }
    return bytes;
}

template <class Scalar>
void GroupedExperts<Scalar>::do_update_lora() {
    const index_t lora_rank = this->config().lora_rank;
    const auto copy = [&](MatrixView<const Sum> from, Matrix<Scalar>& to, const auto& factor_of_row) {
        to.resize(from.rows(), from.cols());
        const MatrixView<Scalar> out = to;
#pragma omp parallel for schedule(static)
        for (index_t row = 0; row < from.rows(); ++row) {
            elementwise_.scale_narrow(from.cols(), factor_of_row(row), from[row], out[row]);
        }
    };
    for (const Projection p : projections) {
        const auto i = static_cast<std::size_t>(p);
        copy(this->factors()[p].a, lora_a_[i],
             [&](index_t row) { return static_cast<Sum>(this->config().lora_scale(p, row / lora_rank)); });
        copy(this->factors()[p].b, lora_b_[i], [](index_t) { return Sum(1); });
    }
}

/// Cuts the rows into chunks and gets the buffers that depend on them.
template <class Scalar>
void GroupedExperts<Scalar>::prepare(const SavedExperts<Scalar>& saved) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const RoutedRows& routed = saved.routed;
    const index_t strips = std::min(products_.strips_in_cache(hidden_blocks_), most_strips_of_chunk);
    work.chunks = make_chunks(routed, strips * kernel_block);
    work.strips = work.chunks.empty() ? 0 : work.chunks.back().first_strip + work.chunks.back().strips();
    work.row_weights.resize(static_cast<std::size_t>(routed.rows()));
    for (std::size_t row = 0; row < work.row_weights.size(); ++row) {
        work.row_weights[row] = saved.weights(routed.token[row], routed.choice[row]);
    }
    work.rows_out.resize(routed.rows(), this->config().hidden);
    work.row_tokens.clear();
    if (saved.dropout.is_active()) {
        for (const std::int32_t token : routed.token) {
            work.row_tokens.push_back(saved.dropout.rows[static_cast<std::size_t>(token)]);
        }
    }
    work.dropout = saved.dropout;
    work.dropout.rows = work.row_tokens;
}

/// Each expert is a module of its own: its masks for a token differ from those of the token's other experts.
template <class Scalar>
DropoutMask GroupedExperts<Scalar>::mask_of(Projection p, index_t expert) const {
    const ExpertConfig& config = this->config();
    const index_t of_layers = config.layer * config.all_experts() + config.experts_begin + expert;
    const index_t module = of_layers * std::ssize(projections) + static_cast<index_t>(p);
    return {this->workspace().dropout, static_cast<std::uint64_t>(module)};
}

/// Row blocks `row_block` of an expert's weights: output features.
template <class Scalar>
StoredRun GroupedExperts<Scalar>::weight_strip(Projection p, index_t expert, index_t row_block) const {
    const PackedWeights& all = weights_[static_cast<std::size_t>(p)];
    return all.row_run(expert, row_block, 0, blocks_of(all.cols()));
}

/// Column block `col_block`: input features, as backward passes need them.
template <class Scalar>
StoredRun GroupedExperts<Scalar>::weight_columns(Projection p, index_t expert, index_t col_block) const {
    const PackedWeights& all = weights_[static_cast<std::size_t>(p)];
    return all.column_run(expert, col_block, 0, blocks_of(all.rows()));
}

template <class Scalar>
MatrixView<const Scalar> GroupedExperts<Scalar>::lora_a(Projection p, index_t expert) const {
    const index_t lora_rank = this->config().lora_rank;
    return lora_a_[static_cast<std::size_t>(p)].view().rows(expert * lora_rank, lora_rank);
}

template <class Scalar>
MatrixView<const Scalar> GroupedExperts<Scalar>::lora_b(Projection p, index_t expert) const {
    const Matrix<Scalar>& all = lora_b_[static_cast<std::size_t>(p)];
    const index_t out = all.rows() / this->config().experts;
    return all.view().rows(expert * out, out);
}

/// Column blocks [first, last) of the chunk's rows of `tokens` [T, width], as blocks [strips][last - first][32, 32];
/// what lies beyond the rows and columns is zero.
template <class Scalar>
void GroupedExperts<Scalar>::gather_blocks(const RoutedRows& routed, MatrixView<const Scalar> tokens,
                                           const RowChunk& chunk, index_t first, index_t last, Scalar* out) {
    constexpr index_t blocks_ahead = 4;
    const std::int32_t* token = routed.token.data() + chunk.begin;
    for (index_t s = 0; s < chunk.strips(); ++s) {
        const index_t rows = extent_of_block(chunk.rows, s);
        for (index_t b = first; b < last; ++b, out += block_elements) {
            const index_t cols = extent_of_block(tokens.cols(), b);
            if (rows < kernel_block || cols < kernel_block) {
                std::fill_n(out, block_elements, static_cast<Scalar>(0.0F));
            }
            for (index_t row = 0; row < rows; ++row) {
                const Scalar* from = tokens[token[s * kernel_block + row]] + b * kernel_block;
                if (cols == kernel_block) {
                    __builtin_prefetch(from + blocks_ahead * kernel_block);  // rows are too many for hardware to follow
                    std::memcpy(out + row * kernel_block, from, kernel_block * sizeof(Scalar));
                } else {
                    std::copy_n(from, cols, out + row * kernel_block);
                }
            }
        }
    }
}

/// tokens[t] = the sum of the rows of the token's choices, always in their order: the same at any thread count.
template <class Scalar>
void GroupedExperts<Scalar>::sum_over_choices(const RoutedRows& routed, MatrixView<Sum> tokens) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_combine);
    const index_t choices = this->config().experts_per_token;
    const MatrixView<const Scalar> rows = work.rows_out;
    work.rows_of_token.resize(routed.row.size());
#pragma omp parallel for schedule(static)
    for (index_t t = 0; t < tokens.rows(); ++t) {
        const Scalar** of_token = work.rows_of_token.data() + t * choices;
        index_t count = 0;
        for (index_t k = 0; k < choices; ++k) {
            const index_t row = routed.row[static_cast<std::size_t>(t * choices + k)];
            if (row >= 0) {
                of_token[count++] = rows[row];
            }
        }
        elementwise_.sum_rows(tokens.cols(), count, of_token, tokens[t]);
    }
}

template <class Scalar>
void GroupedExperts<Scalar>::do_forward(SavedExperts<Scalar>& saved, bool keep, MatrixView<Sum> output) {
    prepare(saved);
    const bool retain = keep && this->config().activations == Activations::retain;
    project_up(saved, retain ? &saved.pre_activations : nullptr, true);
    project_down();
    sum_over_choices(saved.routed, output);
}

template <class Scalar>
void GroupedExperts<Scalar>::do_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,
                                         bool with_input_gradients, MatrixView<Sum> grad_input) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    prepare(saved);
    const bool recompute = this->config().activations != Activations::retain;
    if (recompute) {
        project_up(saved, &work.recomputed, false);
    }
    const PreActivations<Scalar>& kept = recompute ? work.recomputed : saved.pre_activations;
    backward_down(saved, kept, grad_output);
    backward_up(with_input_gradients);
    if (with_input_gradients) {
        sum_over_choices(saved.routed, grad_input);
        sum_weight_gradients(saved.routed);
    }
    if (this->config().lora_rank > 0) {
        lora_gradients(saved, kept, grad_output);
    }
}

template class GroupedExperts<bf16>;
template class GroupedExperts<float>;
template class GroupedExperts<double>;

}  // namespace moesaic::ops
