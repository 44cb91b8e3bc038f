#include "model/block.hpp"

#include "model/workspace.hpp"
#include "ops/dropout.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
Block<T>::Block(BlockPlan plan, const LoraParameters<A>& parameters, Workspace<T>& workspace)
    : plan_(std::move(plan)), workspace_(workspace) {
    for (const ProjectionPlan& projection : plan_.projections) {
        if (projection.is_routed()) {
            continue;
        }
        const AdapterSpec& spec = projection.specs.front();
        ops::LoraLinear<T>& linear =
            linears_.emplace_back(workspace_.kernels,
                                  ops::LinearShape{projection.out, projection.in, projection.has_bias,
                                                   projection.lora_rank, spec.scale, projection.stored},
                                  ops::dropout_module(projection.modules.front()));
        if (linear.is_adapted()) {
            const ProjectionFactors<A> factors = parameters.factors_of(projection);
            linear.bind(factors.values, factors.gradients);
        }
    }
}

template <class T>
const kernels::KernelSet& Block<T>::kernels() const noexcept {
    return workspace_.kernels;
}

template <class T>
void Block<T>::load(const WeightSource<T>& source) {
    auto linear = linears_.begin();
    for (const ProjectionPlan& projection : plan_.projections) {
        if (!projection.is_routed()) {
            source.fill_whole(projection.modules.front() + ".weight", linear->weight());
            if (projection.has_bias) {
                source.read_vector(projection.modules.front() + ".bias", linear->bias());
            }
            ++linear;
        }
    }
    auto tensor = plan_.tensors.begin();
    for (const MatrixView<A>& destination : tensors()) {
        source.read_full_precision((tensor++)->name, destination);
    }
}

template <class T>
void Block<T>::update_lora() {
    for (ops::LoraLinear<T>& linear : linears_) {
        linear.update_lora();
    }
}

template <class T>
void Block<T>::apply(const Pass<T>& pass, const ops::LoraLinear<T>& linear, MatrixView<const A> x,
                     MatrixView<A> y) const {
    linear.forward(x, y, pass.dropout(), workspace_.linear);
}

template <class T>
void Block<T>::apply_backward(const Pass<T>& pass, const ops::LoraLinear<T>& linear, MatrixView<const T> x,
                              MatrixView<const T> grad_y, MatrixView<A> grad_x, bool accumulate) const {
    linear.backward(x, grad_y, grad_x, pass.dropout(), workspace_.linear, accumulate);
}

template class Block<bf16>;
template class Block<float>;
template class Block<double>;

}  // namespace moesaic::model
