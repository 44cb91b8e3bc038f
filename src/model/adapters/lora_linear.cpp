#include "model/adapters/lora_linear.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace moesaic::model {

using core::bf16;
using kernels::Gemm;
using kernels::product;

template <class T>
LoraLinear<T>::LoraLinear(std::string module, const LinearShape& shape, LoraTarget target, const LoraLayer<T>& layer)
    : module_(std::move(module)),
      shared_(layer.shared),
      weight_(layer.weights, shape.out, shape.in),
      bias_(shape.has_bias ? static_cast<std::size_t>(shape.out) : 0),
      shape_(layer.shared.settings.shape_of(target, module_)) {
    if (is_adapted()) {
        factors_ = ModuleFactors<A>(layer.bucket, target, module_, shape.out, shape.in, shape_);
    }
}

template <class T>
void LoraLinear<T>::load(const WeightSource<T>& source) {
    source.fill_whole(module_ + ".weight", weight_);
    if (!bias_.empty()) {
        source.read_vector(module_ + ".bias", bias_);
    }
}

template <class T>
void LoraLinear<T>::update_lora() {
    if (is_adapted()) {
        a_.resize(shape_.rank, in());
        b_.resize(out(), shape_.rank);
        ops::convert<T>(shared_.kernels.template elementwise<T>(), factors_.a(), a_.view());
        ops::convert<T>(shared_.kernels.template elementwise<T>(), factors_.b(), b_.view());
    }
}

template <class T>
void LoraLinear<T>::add_bias(MatrixView<A> y) const {
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < y.rows(); ++row) {
        A* out = y[row];
        for (std::size_t i = 0; i < bias_.size(); ++i) {
            out[i] += bias_[i];
        }
    }
}

template <class T>
template <class S>
MatrixView<const S> LoraLinear<T>::input_of_a(MatrixView<const S> x, S* storage) const {
    const ops::Dropout& dropout = shared_.dropout;
    if (!dropout.is_active()) {
        return x;
    }
    const ops::DropoutMask mask(dropout, ops::dropout_module(module_));
    const MatrixView<S> dropped(storage, x.rows(), x.cols());
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < x.rows(); ++row) {
        std::copy_n(x[row], x.cols(), dropped[row]);
        mask.apply(dropout.rows[static_cast<std::size_t>(row)], 0, x.cols(), dropped[row]);
    }
    return dropped;
}

/// grad_x += the gradient of the input of A, through dropout.
template <class T>
void LoraLinear<T>::add_dropped(MatrixView<const A> grad_dropped, MatrixView<A> grad_x) const {
    const ops::DropoutMask mask(shared_.dropout, ops::dropout_module(module_));
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < grad_x.rows(); ++row) {
        mask.add(shared_.dropout.rows[static_cast<std::size_t>(row)], 0, grad_x.cols(), grad_dropped[row], grad_x[row]);
    }
}

template <class T>
void LoraLinear<T>::forward(std::span<const Forward> batch) {
    if (batch.empty()) {
        return;
    }
    LoraShared<T>& shared = batch.front().linear.shared_;
    shared.inputs.resize(std::max(shared.inputs.size(), batch.size()));
    std::vector<ops::FrozenProduct<T>> frozen;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const Forward& entry = batch[i];
        const auto same = std::find_if(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(i),
                                       [&](const Forward& earlier) { return earlier.x.data() == entry.x.data(); });
        const auto first = static_cast<std::size_t>(same - batch.begin());
        const ops::SplitOperand<T> x =
            first < i ? ops::SplitOperand<T>{frozen[first].x, frozen[first].low}
                      : ops::split<T>(shared.kernels.template elementwise<T>(), entry.x, shared.inputs[i]);
        frozen.push_back({entry.linear.weight_, ops::Direction::forward, x.high, entry.y, false, x.low});
    }
    ops::multiply<T>(shared.kernels, frozen, shared.frozen);
    for (const Forward& entry : batch) {
        if (!entry.linear.bias_.empty()) {
            entry.linear.add_bias(entry.y);
        }
    }
    add_adapters(shared, batch);
}

/// y += s B A x where there is an adapter.
template <class T>
void LoraLinear<T>::add_adapters(LoraShared<T>& shared, std::span<const Forward> batch) {
    std::vector<const Forward*> adapted;
    index_t low_rank_size = 0;
    index_t dropped_size = 0;
    for (const Forward& entry : batch) {
        if (entry.linear.is_adapted()) {
            adapted.push_back(&entry);
            low_rank_size += entry.x.rows() * entry.linear.shape_.rank;
            dropped_size += shared.dropout.is_active() ? entry.x.rows() * entry.x.cols() : 0;
        }
    }
    if (adapted.empty()) {
        return;
    }
    shared.down_sum.resize(1, low_rank_size);
    shared.wide_dropped.resize(1, dropped_size);
    std::vector<Gemm<A>> down_products;
    std::vector<Gemm<A>> up_products;
    index_t begin = 0;
    A* dropped = shared.wide_dropped.data();
    for (const Forward* entry : adapted) {
        const LoraLinear& linear = entry->linear;
        const index_t rows = entry->x.rows();
        const index_t rank = linear.shape_.rank;
        const MatrixView<A> down(shared.down_sum.data() + begin, rows, rank);
        down_products.push_back(product<A>(linear.input_of_a(entry->x, dropped), false, linear.factors_.a(), true, down,
                                           static_cast<A>(linear.shape_.scale)));
        up_products.push_back(product<A>(down, false, linear.factors_.b(), true, entry->y, 1, true));
        begin += rows * rank;
        dropped += shared.dropout.is_active() ? rows * entry->x.cols() : 0;
    }
    shared.kernels.template run<A>(down_products);
    shared.kernels.template run<A>(up_products);
}

template <class T>
void LoraLinear<T>::backward(MatrixView<const T> x, MatrixView<const T> grad_y, MatrixView<A> grad_x,
                             bool accumulate) const {
    const kernels::KernelSet& kernels = shared_.kernels;
    if (!grad_x.empty()) {
        const ops::FrozenProduct<T> frozen = {weight_, ops::Direction::backward, grad_y, grad_x, accumulate, {}};
        ops::multiply<T>(kernels, {&frozen, 1}, shared_.frozen);
    }
    if (!is_adapted()) {
        return;
    }
    const auto scale = static_cast<A>(shape_.scale);
    const bool has_dropout = shared_.dropout.is_active();
    shared_.dropped.resize(has_dropout ? x.rows() : 0, in());
    const MatrixView<const T> input = input_of_a(x, shared_.dropped.data());
    for (Matrix<A>* sums : {&shared_.down_sum, &shared_.back_sum}) {
        sums->resize(x.rows(), shape_.rank);
    }
    kernels.run<T>(std::array{product<T>(input, false, a_, true, shared_.down_sum, scale),
                              product<T>(grad_y, false, b_, false, shared_.back_sum, scale)});
    const auto down = ops::as_operand<T>(kernels.elementwise<T>(), shared_.down_sum, shared_.down);
    const auto back = ops::as_operand<T>(kernels.elementwise<T>(), shared_.back_sum, shared_.back);
    std::vector<Gemm<T>> products = {product<T>(grad_y, true, down, false, factors_.grad_b(), 1, true),
                                     product<T>(back, true, input, false, factors_.grad_a(), 1, true)};
    if (!grad_x.empty()) {
        shared_.grad_dropped.resize(has_dropout ? x.rows() : 0, in());
        products.push_back(
            product<T>(back, false, a_, false, has_dropout ? shared_.grad_dropped.view() : grad_x, 1, !has_dropout));
    }
    kernels.run<T>(products);
    if (has_dropout && !grad_x.empty()) {
        add_dropped(shared_.grad_dropped, grad_x);
    }
}

template class LoraLinear<bf16>;
template class LoraLinear<float>;
template class LoraLinear<double>;

}  // namespace moesaic::model
