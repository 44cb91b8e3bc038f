// Forward of grouped experts. Results are computed feature by feature, C[features, tokens] = W x^T: stored weights are
// the left operand as they are, and the activation is then already the right operand of the down projection.
#include "ops/grouped_experts.hpp"

namespace moesaic::ops {

using core::bf16;

/// Gate and up of all rows, with the activation unless only `kept` is wanted.
template <class Scalar>
void GroupedExperts<Scalar>::project_up(const SavedExperts<Scalar>& saved, PreActivations<Scalar>* kept,
                                        bool with_activation) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_gate_up);
    const ExpertConfig& config = this->config();
    if (kept != nullptr) {
        for (std::size_t i = 0; i < 2; ++i) {
            kept->values[i].resize(config.intermediate, saved.routed.rows());
            kept->low_rank[i].resize(config.lora_rank, saved.routed.rows());
        }
    }
    if (with_activation) {
        const index_t bytes = work.strips * intermediate_blocks_ * products_.right_bytes();
        work.activated.reserve(static_cast<std::size_t>(bytes));
        work.dropped.reserve(has_dropout() ? static_cast<std::size_t>(bytes) : 0);
        const index_t elements = work.strips * intermediate_blocks_ * block_elements;
        work.activation.reserve(uses_integers() ? static_cast<std::size_t>(elements) : 0);
    }
    for_each_task(intermediate_blocks_, [&](const TaskContext& task) {
        const index_t expert = task.chunk.expert;
        WeightStream<Scalar>& weights = task.scratch.weights;
        weights.start(2 * (task.item.last - task.item.first), largest_panel(task), 1, [&](index_t i) {
            return weight_strip(i % 2 == 0 ? Projection::gate : Projection::up, expert, task.item.first + i / 2);
        });
        weights.ask_for_first_panels();
        const TokenRows tokens = gather_tokens(saved, task);
        std::array<Strips, 2> low_ranks;
        for (const Projection p : {Projection::gate, Projection::up}) {
            const auto i = static_cast<std::size_t>(p);
            Scalar* keep_here = kept != nullptr && task.is_first()
                                    ? kept->low_rank[i].data() + config.lora_rank * task.chunk.begin
                                    : nullptr;
            const DropoutMask mask = mask_of(p, expert);
            const Strips input =
                has_dropout() ? gather_columns(saved, task, &mask, task.scratch.more_tokens) : tokens.strips;
            low_ranks[i] = low_rank(p, task, input, task.scratch.low_rank[i], keep_here);
        }
        for (index_t strip = task.item.first; strip < task.item.last; ++strip) {
            const index_t features = extent_of_block(config.intermediate, strip);
            for (const Projection p : {Projection::gate, Projection::up}) {
                const auto i = static_cast<std::size_t>(p);
                Sum* sums = task.scratch.sums[i].reserve(static_cast<std::size_t>(kernel_block * task.stride()));
                weights_by_tokens(task, features, tokens, sums, low_rank_term(p, task, strip, low_ranks[i]),
                                  [](index_t) {});
            }
            if (kept != nullptr) {
                keep(task, strip, *kept);
            }
            if (with_activation) {
                activate(task, strip);
            }
        }
    });
}

/// rows_out = the down projection of the activation.
template <class Scalar>
void GroupedExperts<Scalar>::project_down() {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const core::trace::Scope scope(core::scopes::experts_down);
    const index_t hidden = this->config().hidden;
    for_each_task(hidden_blocks_, [&](const TaskContext& task) {
        const index_t expert = task.chunk.expert;
        WeightStream<Scalar>& weights = task.scratch.weights;
        weights.start(task.item.last - task.item.first, largest_panel(task), 1,
                      [&](index_t i) { return weight_strip(Projection::down, expert, task.item.first + i); });
        weights.ask_for_first_panels();
        TokenRows tokens = {activated_strips(task, work.activated)};
        if (uses_integers()) {
            const index_t first = task.chunk.first_strip * intermediate_blocks_ * block_elements;
            tokens.quantised = integers_.quantise(work.activation.data() + first, task.rows(), intermediate_blocks_,
                                                  nullptr, Side::right, task.scratch.integers, 0);
        }
        const Strips input = has_dropout() ? activated_strips(task, work.dropped) : tokens.strips;
        const Strips low = low_rank(Projection::down, task, input, task.scratch.low_rank[0], nullptr);
        Sum* sums = task.scratch.sums[0].reserve(static_cast<std::size_t>(kernel_block * task.stride()));
        for (index_t strip = task.item.first; strip < task.item.last; ++strip) {
            const index_t features = extent_of_block(hidden, strip);
            const auto write = [&](index_t s) {
                elementwise_.transpose_narrow(
                    features, extent_of_block(task.rows(), s), sums + s * kernel_block, task.stride(),
                    work.rows_out.view()[task.chunk.begin + s * kernel_block] + strip * kernel_block, hidden);
            };
            weights_by_tokens(task, features, tokens, sums, low_rank_term(Projection::down, task, strip, low), write);
        }
    });
}

/// The packed activation of the chunk's rows.
template <class Scalar>
Strips GroupedExperts<Scalar>::activated_strips(const TaskContext& task, const core::Buffer<std::byte>& strips) const {
    const Strips all = {strips.data(), intermediate_blocks_, products_.right_bytes()};
    return {all.at(task.chunk.first_strip), intermediate_blocks_, products_.right_bytes()};
}

/// The chunk's hidden states as right operand, and rounded where weights are multiplied as integers.
template <class Scalar>
typename GroupedExperts<Scalar>::TokenRows GroupedExperts<Scalar>::gather_tokens(const SavedExperts<Scalar>& saved,
                                                                                 const TaskContext& task) const {
    if (!uses_integers()) {
        return {gather_columns(saved, task, nullptr, task.scratch.tokens)};
    }
    const index_t of_strip = hidden_blocks_ * block_elements;
    Scalar* rows = task.scratch.rows.reserve(static_cast<std::size_t>(task.strips() * of_strip));
    gather_blocks(saved.routed, saved.hidden, task.chunk, 0, hidden_blocks_, rows);
    TokenRows tokens = {products_.right_strips(task.scratch.tokens, task.strips(), hidden_blocks_)};
    for (index_t s = 0; s < task.strips(); ++s) {
        products_.pack_tokens(tokens.strips.at(s),
                              products_.rows({rows + s * of_strip, block_elements, hidden_blocks_},
                                             extent_of_block(task.rows(), s), this->config().hidden));
    }
    tokens.quantised =
        integers_.quantise(rows, task.rows(), hidden_blocks_, nullptr, Side::right, task.scratch.integers, 0);
    return tokens;
}

/// The chunk's hidden states, after dropout if there is a mask, as right operand: vectors are tokens, k the hidden
/// dimension.
template <class Scalar>
Strips GroupedExperts<Scalar>::gather_columns(const SavedExperts<Scalar>& saved, const TaskContext& task,
                                              const DropoutMask* mask, core::Buffer<std::byte>& storage) const {
    const index_t hidden = this->config().hidden;
    // Rows of a strip are copied side by side first: packing reads 16 rows at once, which must not lie 4 KiB apart.
    const index_t stride = hidden_blocks_ * kernel_block + kernel_block;
    Scalar* rows = task.scratch.rows.reserve(static_cast<std::size_t>(kernel_block * stride));
    const Strips tokens = products_.right_strips(storage, task.strips(), hidden_blocks_);
    const std::int32_t* token = saved.routed.token.data() + task.chunk.begin;
    for (index_t s = 0; s < task.strips(); ++s) {
        const index_t count = extent_of_block(task.rows(), s);
        for (index_t row = 0; row < count; ++row) {
            std::copy_n(saved.hidden[token[s * kernel_block + row]], hidden, rows + row * stride);
            if (mask != nullptr) {
                const index_t routed_row = task.chunk.begin + s * kernel_block + row;
                mask->apply(this->workspace().row_tokens[static_cast<std::size_t>(routed_row)], 0, hidden,
                            rows + row * stride);
            }
        }
        products_.pack_tokens(tokens.at(s), products_.rows(rows, stride, count, hidden));
    }
    return tokens;
}

/// x A^T times the scale, as right operand of the product with B; also as [R, rows] in `kept` unless that is null.
template <class Scalar>
Strips GroupedExperts<Scalar>::low_rank(Projection p, const TaskContext& task, const Strips& tokens,
                                        core::Buffer<std::byte>& storage, Scalar* kept) const {
    const index_t lora_rank = this->config().lora_rank;
    if (lora_rank == 0) {
        return {};
    }
    const MatrixView<const Scalar> a = lora_a(p, task.chunk.expert);
    const index_t stride = task.stride();
    const Strips matrix = products_.left_strips(task.scratch.lora_matrix, 1, tokens.blocks);
    Sum* sums = task.scratch.low_rank_sums.reserve(static_cast<std::size_t>(kernel_block * stride));
    Scalar* rows = task.scratch.low_rank_rows[0].reserve(static_cast<std::size_t>(lora_rank * stride));
    for (index_t block = 0; block < lora_rank_blocks_; ++block) {
        const index_t first = block * kernel_block;
        const index_t count = extent_of_block(lora_rank, block);
        products_.pack_left(matrix.data, products_.rows(a[first], a.stride(), count, a.cols()));
        products_.strip_by_tokens(matrix.data, count, a.cols(), tokens, task.rows(), sums, stride);
        elementwise_.narrow_rows(count, task.rows(), sums, stride, rows + first * stride, stride);
    }
    const Strips packed = products_.right_strips(storage, task.strips(), lora_rank_blocks_);
    for (index_t s = 0; s < task.strips(); ++s) {
        products_.pack_tokens(packed.at(s), products_.columns(rows + s * kernel_block, stride,
                                                              extent_of_block(task.rows(), s), lora_rank));
    }
    if (kept != nullptr) {
        for (index_t r = 0; r < lora_rank; ++r) {
            std::copy_n(rows + r * stride, task.rows(), kept + r * task.rows());
        }
    }
    return packed;
}

/// B times the low-rank activations, for one strip of output features.
template <class Scalar>
TokenTerm GroupedExperts<Scalar>::low_rank_term(Projection p, const TaskContext& task, index_t strip,
                                                const Strips& low_rank) const {
    const index_t lora_rank = this->config().lora_rank;
    if (lora_rank == 0) {
        return {};
    }
    const MatrixView<const Scalar> b = lora_b(p, task.chunk.expert);
    const index_t features = extent_of_block(b.rows(), strip);
    const Strips matrix = products_.left_strips(task.scratch.lora_matrix, 1, lora_rank_blocks_);
    products_.pack_left(matrix.data, products_.rows(b[strip * kernel_block], b.stride(), features, lora_rank));
    return {matrix.data, low_rank, lora_rank};
}

template <class Scalar>
void GroupedExperts<Scalar>::keep(const TaskContext& task, index_t strip, PreActivations<Scalar>& kept) const {
    const index_t intermediate = this->config().intermediate;
    for (std::size_t i = 0; i < 2; ++i) {
        Scalar* out = kept.values[i].data() + intermediate * task.chunk.begin + strip * kernel_block * task.rows();
        const Sum* sums = task.scratch.sums[i].data();
        elementwise_.narrow_rows(extent_of_block(intermediate, strip), task.rows(), sums, task.stride(), out,
                                 task.rows());
    }
}

/// The input of the down projection. The routing weight is in it: experts are linear from there on, so that neither the
/// down projection's output nor its LoRA gradients need the weight again.
template <class Scalar>
void GroupedExperts<Scalar>::activate(const TaskContext& task, index_t strip) {
    ExpertWorkspace<Scalar>& work = this->workspace();
    const index_t features = extent_of_block(this->config().intermediate, strip);
    const index_t stride = task.stride();
    const Sum* weights = work.row_weights.data() + task.chunk.begin;
    Scalar* out = task.scratch.narrow.reserve(static_cast<std::size_t>(kernel_block * stride));
    const Sum* gate = task.scratch.sums[0].data();
    const Sum* up = task.scratch.sums[1].data();
    if (uses_integers()) {
        Sum* wide = task.scratch.integers.activation.reserve(static_cast<std::size_t>(kernel_block * stride));
        for (index_t f = 0; f < features; ++f) {
            elementwise_of_sums_.swiglu_forward(task.rows(), gate + f * stride, up + f * stride, weights,
                                                wide + f * stride);
        }
        elementwise_.narrow_rows(features, task.rows(), wide, stride, out, stride);
        write_activation_blocks(task, strip, wide);
    } else {
        for (index_t f = 0; f < features; ++f) {
            elementwise_.swiglu_forward(task.rows(), gate + f * stride, up + f * stride, weights, out + f * stride);
        }
    }
    pack_activation(task, strip, out, work.activated);
    if (has_dropout()) {
        const DropoutMask mask = mask_of(Projection::down, task.chunk.expert);
        const index_t first = this->config().intermediate_begin + strip * kernel_block;
        std::array<Scalar, kernel_block> features_of_row;
        for (index_t row = 0; row < task.rows(); ++row) {
            for (index_t f = 0; f < features; ++f) {
                features_of_row[static_cast<std::size_t>(f)] = out[f * stride + row];
            }
            mask.apply(work.row_tokens[static_cast<std::size_t>(task.chunk.begin + row)], first, features,
                       features_of_row.data());
            for (index_t f = 0; f < features; ++f) {
                out[f * stride + row] = features_of_row[static_cast<std::size_t>(f)];
            }
        }
        pack_activation(task, strip, out, work.dropped);
    }
}

/// One strip of features, [32, rows] values, as blocks of rows: what is rounded by rows when all of them are there.
template <class Scalar>
void GroupedExperts<Scalar>::write_activation_blocks(const TaskContext& task, index_t strip, const Sum* values) const {
    const index_t features = extent_of_block(this->config().intermediate, strip);
    for (index_t s = 0; s < task.strips(); ++s) {
        Scalar* block = this->workspace().activation.data() +
                        ((task.chunk.first_strip + s) * intermediate_blocks_ + strip) * block_elements;
        if (features < kernel_block) {
            std::fill_n(block, block_elements, static_cast<Scalar>(0.0F));
        }
        elementwise_.transpose_narrow(features, extent_of_block(task.rows(), s), values + s * kernel_block,
                                      task.stride(), block, kernel_block);
    }
}

/// Packs one strip of features, [32, rows] values, into all strips of tokens of the chunk.
template <class Scalar>
void GroupedExperts<Scalar>::pack_activation(const TaskContext& task, index_t strip, const Scalar* values,
                                             core::Buffer<std::byte>& strips) const {
    const Strips packed = activated_strips(task, strips);
    const index_t features = extent_of_block(this->config().intermediate, strip);
    for (index_t s = 0; s < task.strips(); ++s) {
        products_.pack_tokens(packed.at(s, strip), products_.columns(values + s * kernel_block, task.stride(),
                                                                     extent_of_block(task.rows(), s), features));
    }
}

#define MOESAIC_INSTANTIATE(Scalar)                                                                               \
    template void GroupedExperts<Scalar>::project_up(const SavedExperts<Scalar>&, PreActivations<Scalar>*, bool); \
    template void GroupedExperts<Scalar>::project_down();                                                         \
    template Strips GroupedExperts<Scalar>::gather_columns(const SavedExperts<Scalar>&, const TaskContext&,       \
                                                           const DropoutMask*, core::Buffer<std::byte>&) const;
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::ops
