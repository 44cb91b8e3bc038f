#include "ops/lora_linear.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

namespace moesaic::ops {

using core::bf16;
using kernels::Gemm;
using kernels::product;

void plan_linears(std::span<const LinearShape> batch, bool has_dropout, std::vector<BufferPlan>& buffers) {
    const auto add = [&](std::string_view name, Element element, index_t columns, bool for_backward = false) {
        buffers.push_back({name, Rows::own, element, columns, for_backward});
    };
    index_t lora_ranks = 0;
    index_t dropped = 0;
    for (const LinearShape& shape : batch) {
        const index_t adapted = has_dropout && shape.lora_rank > 0 ? shape.in : 0;
        lora_ranks += shape.lora_rank;
        dropped += adapted;
        add("linear.inputs", Element::parts, shape.in);
        add("linear.operand.high", Element::packed, padded(shape.in));
        add("linear.operand.low", Element::packed_low, padded(shape.in));
        add("linear.operand.high", Element::packed, padded(shape.out), true);
        add("linear.dropped", Element::scalar, adapted, true);
        add("linear.grad_dropped", Element::sum, adapted, true);
        add("linear.back_sum", Element::sum, shape.lora_rank, true);
        add("linear.back", Element::narrow, shape.lora_rank, true);
        plan_frozen_threads("linear.threads", shape.out, shape.in, buffers);
    }
    add("linear.wide_dropped", Element::exact, dropped);
    add("linear.dropped", Element::one_part, dropped);
    add("linear.down_sum", Element::sum, lora_ranks);
    add("linear.down", Element::narrow, lora_ranks);
}

template <class Scalar>
LoraLinear<Scalar>::LoraLinear(const kernels::KernelSet& kernels, const LinearShape& shape,
                               std::uint64_t dropout_module)
    : kernels_(kernels),
      shape_(shape),
      dropout_module_(dropout_module),
      weight_(PackedWeights::without_memory(format_for<Scalar>(shape.stored), shape.out, shape.in)),
      bias_(shape.has_bias ? static_cast<std::size_t>(shape.out) : 0) {}

template <class Scalar>
void LoraLinear<Scalar>::bind(const LoraMatrices<const Sum>& values, const LoraMatrices<Sum>& gradients) {
    values_ = values;
    gradients_ = gradients;
}

template <class Scalar>
void LoraLinear<Scalar>::update_lora() {
    if (is_adapted()) {
        a_.resize(shape_.lora_rank, in());
        b_.resize(out(), shape_.lora_rank);
        convert<Scalar>(kernels_.elementwise<Scalar>(), values_.a, a_.view());
        convert<Scalar>(kernels_.elementwise<Scalar>(), values_.b, b_.view());
    }
}

template <class Scalar>
void LoraLinear<Scalar>::add_bias(MatrixView<Sum> y) const {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < y.rows(); ++row) {
        Sum* out = y[row];
        for (std::size_t i = 0; i < bias_.size(); ++i) {
            out[i] += bias_[i];
        }
    }
}

template <class Scalar>
template <class S>
MatrixView<const S> LoraLinear<Scalar>::input_of_a(MatrixView<const S> x, const Dropout& dropout, S* storage) const {
    if (!dropout.is_active()) {
        return x;
    }
    const DropoutMask mask(dropout, dropout_module_);
    const MatrixView<S> dropped(storage, x.rows(), x.cols());
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        std::copy_n(x[row], x.cols(), dropped[row]);
        mask.apply(dropout.rows[static_cast<std::size_t>(row)], 0, x.cols(), dropped[row]);
    }
    return dropped;
}

/// grad_x += the gradient of the input of A, through dropout.
template <class Scalar>
void LoraLinear<Scalar>::add_dropped(MatrixView<const Sum> grad_dropped, const Dropout& dropout,
                                     MatrixView<Sum> grad_x) const {
    const DropoutMask mask(dropout, dropout_module_);
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_x.rows(); ++row) {
        mask.add(dropout.rows[static_cast<std::size_t>(row)], 0, grad_x.cols(), grad_dropped[row], grad_x[row]);
    }
}

template <class Scalar>
void LoraLinear<Scalar>::forward(std::span<const Forward> batch, const Dropout& dropout,
                                 LinearScratch<Scalar>& scratch) {
    if (batch.empty()) {
        return;
    }
    const kernels::KernelSet& kernels = batch.front().linear.kernels_;
    scratch.inputs.resize(std::max(scratch.inputs.size(), batch.size()));
    std::vector<FrozenProduct<Scalar>> frozen;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const Forward& entry = batch[i];
        const auto same =
            std::find_if(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(i), [&](const Forward& earlier) {
                return earlier.x.rounded.data() == entry.x.rounded.data() &&
                       earlier.x.exact.data() == entry.x.exact.data();
            });
        const auto first = static_cast<std::size_t>(same - batch.begin());
        const SplitOperand<Scalar> x = first < i ? SplitOperand<Scalar>{frozen[first].x, frozen[first].low}
                                                 : split<Scalar>(kernels, entry.x, scratch.inputs[i]);
        frozen.push_back({entry.linear.weight_, Direction::forward, x.high, entry.y, false, x.low});
    }
    multiply<Scalar>(kernels, frozen, scratch.frozen);
    for (const Forward& entry : batch) {
        if (!entry.linear.bias_.empty()) {
            entry.linear.add_bias(entry.y);
        }
    }
    if (kernels.operand_parts<Scalar>() == 1) {
        add_adapters<Scalar>(batch, dropout, scratch);
    } else {
        add_adapters<Sum>(batch, dropout, scratch);
    }
}

template <class Scalar>
template <class S>
LoraMatrices<const S> LoraLinear<Scalar>::factors() const {
    if constexpr (std::is_same_v<S, Scalar>) {
        return {a_, b_};
    } else {
        return values_;
    }
}

template <class Scalar>
template <class S>
void LoraLinear<Scalar>::add_adapters(std::span<const Forward> batch, const Dropout& dropout,
                                      LinearScratch<Scalar>& scratch) {
    constexpr bool rounds = std::is_same_v<S, Scalar>;
    std::vector<const Forward*> adapted;
    index_t low_rank_size = 0;
    index_t dropped_size = 0;
    for (const Forward& entry : batch) {
        if (entry.linear.is_adapted()) {
            adapted.push_back(&entry);
            low_rank_size += entry.y.rows() * entry.linear.shape_.lora_rank;
            dropped_size += dropout.is_active() ? entry.y.rows() * entry.linear.in() : 0;
        }
    }
    if (adapted.empty()) {
        return;
    }
    const kernels::KernelSet& kernels = batch.front().linear.kernels_;
    S* dropped = nullptr;
    if constexpr (rounds) {
        scratch.dropped.resize(1, dropped_size);
        dropped = scratch.dropped.data();
    } else {
        scratch.wide_dropped.resize(1, dropped_size);
        dropped = scratch.wide_dropped.data();
    }
    scratch.down_sum.resize(1, low_rank_size);
    std::vector<Gemm<S>> down_products;
    Sum* down = scratch.down_sum.data();
    for (const Forward* entry : adapted) {
        const LoraLinear& linear = entry->linear;
        const index_t rows = entry->y.rows();
        MatrixView<const S> x;
        if constexpr (rounds) {
            x = entry->x.rounded;
        } else {
            x = entry->x.exact;
        }
        down_products.push_back(product<S>(linear.input_of_a(x, dropout, dropped), false, linear.factors<S>().a, true,
                                           {down, rows, linear.shape_.lora_rank},
                                           static_cast<Sum>(linear.shape_.lora_scale)));
        down += rows * linear.shape_.lora_rank;
        dropped += dropout.is_active() ? rows * linear.in() : 0;
    }
    kernels.run<S>(down_products);
    std::vector<Gemm<S>> up_products;
    down = scratch.down_sum.data();
    scratch.down.resize(1, rounds && !std::is_same_v<S, Sum> ? low_rank_size : 0);
    Scalar* narrow = scratch.down.data();
    for (const Forward* entry : adapted) {
        const MatrixView<Sum> sums(down, entry->y.rows(), entry->linear.shape_.lora_rank);
        MatrixView<const S> low_rank;
        if constexpr (std::is_same_v<S, Sum>) {
            low_rank = sums;
        } else {
            const MatrixView<S> rounded(narrow, sums.rows(), sums.cols());
            convert<S>(kernels.elementwise<S>(), sums, rounded);
            low_rank = rounded;
            narrow += rounded.rows() * rounded.cols();
        }
        up_products.push_back(
            product<S>(low_rank, false, entry->linear.template factors<S>().b, true, entry->y, 1, true));
        down += sums.rows() * sums.cols();
    }
    kernels.run<S>(up_products);
}

template <class Scalar>
void LoraLinear<Scalar>::backward(MatrixView<const Scalar> x, MatrixView<const Scalar> grad_y, MatrixView<Sum> grad_x,
                                  const Dropout& dropout, LinearScratch<Scalar>& scratch, bool accumulate) const {
    if (!grad_x.empty()) {
        const FrozenProduct<Scalar> frozen = {weight_, Direction::backward, grad_y, grad_x, accumulate, {}};
        multiply<Scalar>(kernels_, {&frozen, 1}, scratch.frozen);
    }
    if (!is_adapted()) {
        return;
    }
    const auto scale = static_cast<Sum>(shape_.lora_scale);
    const bool has_dropout = dropout.is_active();
    scratch.dropped.resize(has_dropout ? x.rows() : 0, in());
    const MatrixView<const Scalar> input = input_of_a(x, dropout, scratch.dropped.data());
    for (Matrix<Sum>* sums : {&scratch.down_sum, &scratch.back_sum}) {
        sums->resize(x.rows(), shape_.lora_rank);
    }
    kernels_.run<Scalar>(std::array{product<Scalar>(input, false, a_, true, scratch.down_sum, scale),
                                    product<Scalar>(grad_y, false, b_, false, scratch.back_sum, scale)});
    const auto down = as_operand<Scalar>(kernels_.elementwise<Scalar>(), scratch.down_sum, scratch.down);
    const auto back = as_operand<Scalar>(kernels_.elementwise<Scalar>(), scratch.back_sum, scratch.back);
    std::vector<Gemm<Scalar>> products = {product<Scalar>(grad_y, true, down, false, gradients_.b, 1, true),
                                          product<Scalar>(back, true, input, false, gradients_.a, 1, true)};
    if (!grad_x.empty()) {
        scratch.grad_dropped.resize(has_dropout ? x.rows() : 0, in());
        products.push_back(product<Scalar>(back, false, a_, false, has_dropout ? scratch.grad_dropped.view() : grad_x,
                                           1, !has_dropout));
    }
    kernels_.run<Scalar>(products);
    if (has_dropout && !grad_x.empty()) {
        add_dropped(scratch.grad_dropped, dropout, grad_x);
    }
}

template class LoraLinear<bf16>;
template class LoraLinear<float>;
template class LoraLinear<double>;

}  // namespace moesaic::ops
