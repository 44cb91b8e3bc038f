#include "model/lora_linear.hpp"

#include "model/elementwise.hpp"

#include <vector>

namespace moesaic::model {
namespace {

using core::bf16;
using kernels::Gemm;
using kernels::product;

/// The [M, R] intermediates of all entries, one after the other in one buffer.
template <class Entry>
class Intermediates {
public:
    explicit Intermediates(std::span<const Entry> batch) : batch_(batch) {
        for (const Entry& entry : batch) {
            begin_.push_back(size_);
            size_ += entry.x.rows() * entry.linear.rank();
        }
    }
    [[nodiscard]] bool empty() const { return size_ == 0; }

    /// The [M, R] matrix of one entry; `storage` was sized by `resize`.
    template <class U>
    [[nodiscard]] MatrixView<U> of(Matrix<U>& storage, std::size_t entry) const {
        return {storage.data() + begin_[entry], batch_[entry].x.rows(), batch_[entry].linear.rank()};
    }
    template <class U>
    void resize(Matrix<U>& storage) const {
        storage.resize(1, size_);
    }

private:
    std::span<const Entry> batch_;
    std::vector<index_t> begin_;
    index_t size_ = 0;
};

/// scratch.down = s x A^T of every entry.
template <class T, class Entry>
void project_down(const kernels::KernelSet& kernels, std::span<const Entry> batch, const Intermediates<Entry>& place,
                  LoraScratch<T>& scratch) {
    place.resize(scratch.down_sum);
    place.resize(scratch.down);
    std::vector<Gemm<T>> products;
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const LoraLinear<T>& linear = batch[i].linear;
        products.push_back(product<T>(batch[i].x, false, linear.a, true, place.of(scratch.down_sum, i), linear.scale));
    }
    kernels.run<T>(products);
    convert<T>(kernels.elementwise<T>(), scratch.down_sum, scratch.down);
}

}  // namespace

template <class T>
void lora_linear_forward(const kernels::KernelSet& kernels, std::span<const LoraForward<T>> batch,
                         LoraScratch<T>& scratch) {
    std::vector<Gemm<T>> products;
    for (const LoraForward<T>& entry : batch) {
        products.push_back(product<T>(entry.x, false, entry.linear.weight, true, entry.y, 1, entry.accumulate));
    }
    kernels.run<T>(products);

    const Intermediates<LoraForward<T>> place(batch);
    if (place.empty()) {
        return;
    }
    project_down<T>(kernels, batch, place, scratch);
    products.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) {
        products.push_back(product<T>(place.of(scratch.down, i), false, batch[i].linear.b, true, batch[i].y, 1, true));
    }
    kernels.run<T>(products);
}

template <class T>
void lora_linear_backward(const kernels::KernelSet& kernels, std::span<const LoraBackward<T>> batch,
                          LoraScratch<T>& scratch) {
    std::vector<Gemm<T>> products;
    for (const LoraBackward<T>& entry : batch) {
        if (!entry.grad_x.empty()) {
            products.push_back(
                product<T>(entry.grad_y, false, entry.linear.weight, false, entry.grad_x, 1, entry.accumulate));
        }
    }
    kernels.run<T>(products);

    const Intermediates<LoraBackward<T>> place(batch);
    if (place.empty()) {
        return;
    }
    project_down<T>(kernels, batch, place, scratch);
    place.resize(scratch.back_sum);
    place.resize(scratch.back);
    products.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const auto& [linear, x, grad_y, grad_x, accumulate] = batch[i];
        products.push_back(product<T>(grad_y, false, linear.b, false, place.of(scratch.back_sum, i), linear.scale));
        products.push_back(product<T>(grad_y, true, place.of(scratch.down, i), false, linear.grad_b, 1, true));
    }
    kernels.run<T>(products);
    convert<T>(kernels.elementwise<T>(), scratch.back_sum, scratch.back);
    products.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) {
        const auto& [linear, x, grad_y, grad_x, accumulate] = batch[i];
        products.push_back(product<T>(place.of(scratch.back, i), true, x, false, linear.grad_a, 1, true));
        if (!grad_x.empty()) {
            products.push_back(product<T>(place.of(scratch.back, i), false, linear.a, false, grad_x, 1, true));
        }
    }
    kernels.run<T>(products);
}

#define MOESAIC_INSTANTIATE(T)                                                                                         \
    template void lora_linear_forward<T>(const kernels::KernelSet&, std::span<const LoraForward<T>>, LoraScratch<T>&); \
    template void lora_linear_backward<T>(const kernels::KernelSet&, std::span<const LoraBackward<T>>, LoraScratch<T>&);
MOESAIC_INSTANTIATE(bf16)
MOESAIC_INSTANTIATE(float)
MOESAIC_INSTANTIATE(double)
#undef MOESAIC_INSTANTIATE

}  // namespace moesaic::model
