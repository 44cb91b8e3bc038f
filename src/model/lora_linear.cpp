#include "model/lora_linear.hpp"

#include "model/elementwise.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;
using kernels::Gemm;
using kernels::product;

template <class T>
LoraLinear<T>::LoraLinear(std::string module, const LinearShape& shape, LoraTarget target, const LoraLayer<T>& layer)
    : module_(std::move(module)),
      shared_(layer.shared),
      weight_(shape.out, shape.in),
      bias_(shape.has_bias ? static_cast<std::size_t>(shape.out) : 0),
      shape_(layer.shared.settings.shape_of(target, module_)) {
    if (is_adapted()) {
        factors_ = ModuleFactors<A>(layer.bucket, module_, shape.out, shape.in, shape_);
    }
}

template <class T>
void LoraLinear<T>::load(const WeightSource<T>& source) {
    source.read_matrix(module_ + ".weight", weight_);
    if (!bias_.empty()) {
        source.read_vector(module_ + ".bias", bias_);
    }
}

template <class T>
void LoraLinear<T>::update_lora() {
    if (is_adapted()) {
        a_.resize(shape_.rank, in());
        b_.resize(out(), shape_.rank);
        convert<T>(shared_.kernels.template elementwise<T>(), factors_.a(), a_.view());
        convert<T>(shared_.kernels.template elementwise<T>(), factors_.b(), b_.view());
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
void LoraLinear<T>::forward(std::span<const Forward> batch) {
    std::vector<Gemm<T>> products;
    std::vector<const Forward*> adapted;
    index_t low_rank_size = 0;
    for (const Forward& entry : batch) {
        products.push_back(product<T>(entry.x, false, entry.linear.weight_, true, entry.y));
        if (entry.linear.is_adapted()) {
            adapted.push_back(&entry);
            low_rank_size += entry.x.rows() * entry.linear.shape_.rank;
        }
    }
    if (batch.empty()) {
        return;
    }
    LoraShared<T>& shared = batch.front().linear.shared_;
    shared.kernels.template run<T>(products);
    for (const Forward& entry : batch) {
        if (!entry.linear.bias_.empty()) {
            entry.linear.add_bias(entry.y);
        }
    }
    if (adapted.empty()) {
        return;
    }

    shared.down_sum.resize(1, low_rank_size);
    shared.down.resize(1, low_rank_size);
    std::vector<Gemm<T>> down_products;
    products.clear();
    index_t begin = 0;
    for (const Forward* entry : adapted) {
        const LoraLinear& linear = entry->linear;
        const index_t rows = entry->x.rows();
        const index_t rank = linear.shape_.rank;
        down_products.push_back(product<T>(entry->x, false, linear.a_, true,
                                           MatrixView<A>(shared.down_sum.data() + begin, rows, rank),
                                           static_cast<A>(linear.shape_.scale)));
        products.push_back(product<T>(MatrixView<const T>(shared.down.data() + begin, rows, rank), false, linear.b_,
                                      true, entry->y, 1, true));
        begin += rows * rank;
    }
    shared.kernels.template run<T>(down_products);
    convert<T>(shared.kernels.template elementwise<T>(), shared.down_sum, shared.down.view());
    shared.kernels.template run<T>(products);
}

template <class T>
void LoraLinear<T>::backward(MatrixView<const T> x, MatrixView<const T> grad_y, MatrixView<A> grad_x,
                             bool accumulate) const {
    const kernels::KernelSet& kernels = shared_.kernels;
    if (!grad_x.empty()) {
        kernels.run(product<T>(grad_y, false, weight_, false, grad_x, 1, accumulate));
    }
    if (!is_adapted()) {
        return;
    }
    const auto scale = static_cast<A>(shape_.scale);
    for (Matrix<A>* sums : {&shared_.down_sum, &shared_.back_sum}) {
        sums->resize(x.rows(), shape_.rank);
    }
    kernels.run<T>(std::array{product<T>(x, false, a_, true, shared_.down_sum, scale),
                              product<T>(grad_y, false, b_, false, shared_.back_sum, scale)});
    const auto down = as_operand<T>(kernels.elementwise<T>(), shared_.down_sum, shared_.down);
    const auto back = as_operand<T>(kernels.elementwise<T>(), shared_.back_sum, shared_.back);
    std::vector<Gemm<T>> products = {product<T>(grad_y, true, down, false, factors_.grad_b(), 1, true),
                                     product<T>(back, true, x, false, factors_.grad_a(), 1, true)};
    if (!grad_x.empty()) {
        products.push_back(product<T>(back, false, a_, false, grad_x, 1, true));
    }
    kernels.run<T>(products);
}

template class LoraLinear<bf16>;
template class LoraLinear<float>;
template class LoraLinear<double>;

}  // namespace moesaic::model
