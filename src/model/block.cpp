#include "model/block.hpp"

#include "core/error.hpp"
#include "model/workspace.hpp"
#include "ops/dropout.hpp"

#include <utility>

namespace moesaic::model {

using core::bf16;

template <class Scalar>
Block<Scalar>::Block(BlockPlan plan, const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace)
    : plan_(std::move(plan)), workspace_(workspace) {
    for (const ProjectionPlan& projection : plan_.projections) {
        if (projection.is_routed()) {
            continue;
        }
        const AdapterSpec& spec = projection.specs.front();
        ops::LoraLinear<Scalar>& linear =
            linears_.emplace_back(workspace_.kernels,
                                  ops::LinearShape{projection.out, projection.in, projection.has_bias,
                                                   projection.lora_rank, spec.scale, projection.stored},
                                  ops::dropout_module(projection.modules.front()));
        if (linear.is_adapted()) {
            const ProjectionFactors<Sum> factors = parameters.factors_of(projection);
            linear.bind(factors.values, factors.gradients);
        }
    }
}

template <class Scalar>
const kernels::KernelSet& Block<Scalar>::kernels() const noexcept {
    return workspace_.kernels;
}

template <class Scalar>
void Block<Scalar>::load(const WeightSource<Scalar>& source) {
    auto linear = linears_.begin();
    for (const ProjectionPlan& projection : plan_.projections) {
        if (!projection.is_routed()) {
            source.fill_whole(projection.modules.front() + ".weight", linear->weight());
            if (projection.has_bias) {
                source.read_vector(projection.modules.front() + ".bias", TensorRole::offset, linear->bias());
            }
            ++linear;
        }
    }
    const std::vector<MatrixView<Sum>> destinations = tensors();
    core::require(destinations.size() == plan_.tensors.size(), core::ExitCode::runtime_failure,
                  "{}: {} tensors are planned, the block has {} (its plan and its class disagree); correct the block",
                  plan_.kind, plan_.tensors.size(), destinations.size());
    for (std::size_t i = 0; i < destinations.size(); ++i) {
        source.read_full_precision(plan_.tensors[i].name, plan_.tensors[i].role, destinations[i]);
    }
}

template <class Scalar>
void Block<Scalar>::update_lora() {
    for (ops::LoraLinear<Scalar>& linear : linears_) {
        linear.update_lora();
    }
}

template <class Scalar>
void Block<Scalar>::apply(const Pass<Scalar>& pass, const ops::LoraLinear<Scalar>& linear,
                          const ops::RoundedRows<Scalar>& x, MatrixView<Sum> y) const {
    linear.forward(x, y, pass.dropout(), workspace_.linear);
}

template <class Scalar>
void Block<Scalar>::apply_backward(const Pass<Scalar>& pass, const ops::LoraLinear<Scalar>& linear,
                                   MatrixView<const Scalar> x, MatrixView<const Scalar> grad_y, MatrixView<Sum> grad_x,
                                   bool accumulate) const {
    linear.backward(x, grad_y, grad_x, pass.dropout(), workspace_.linear, accumulate);
}

template class Block<bf16>;
template class Block<float>;
template class Block<double>;

}  // namespace moesaic::model
