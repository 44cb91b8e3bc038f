#include "model/gemm_experts.hpp"

#include "model/elementwise.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace moesaic::model {

using core::bf16;

template <class T>
GemmExperts<T>::GemmExperts(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<T>> workspace,
                            const kernels::KernelSet& kernels)
    : ExpertBackend<T>(config, std::move(workspace)), kernels_(kernels) {}

template <class T>
void GemmExperts<T>::do_load_weights(const ExpertWeightSource<T>& source) {
    const ExpertConfig& config = this->config();
    for (const Projection p : projections) {
        const bool down = p == Projection::down;
        const index_t out = down ? config.hidden : config.intermediate;
        Matrix<T>& all = weights_[static_cast<std::size_t>(p)];
        all.resize(config.experts * out, down ? config.intermediate : config.hidden);
        for (index_t e = 0; e < config.experts; ++e) {
            source(e, p, all.view().rows(e * out, out));
        }
    }
}

template <class T>
void GemmExperts<T>::do_update_lora() {
    for (const Projection p : projections) {
        const auto i = static_cast<std::size_t>(p);
        operands_[p] = {as_operand<T>(this->factors()[p].a, lora_a_[i]),
                        as_operand<T>(this->factors()[p].b, lora_b_[i])};
    }
}

template <class T>
LoraLinear<T> GemmExperts<T>::linear(index_t expert, Projection projection) const {
    const ExpertConfig& config = this->config();
    const Matrix<T>& all = weights_[static_cast<std::size_t>(projection)];
    const index_t out = all.rows() / config.experts;
    LoraLinear<T> result;
    result.weight = all.view().rows(expert * out, out);
    if (config.lora_rank > 0) {
        const index_t rank = config.lora_rank;
        result.a = operands_[projection].a.rows(expert * rank, rank);
        result.b = operands_[projection].b.rows(expert * out, out);
        result.scale = static_cast<A>(config.lora_scale());
        result.grad_a = this->gradients()[projection].a.rows(expert * rank, rank);
        result.grad_b = this->gradients()[projection].b.rows(expert * out, out);
    }
    return result;
}

template <class T>
void GemmExperts<T>::add_forward(std::vector<LoraForward<T>>& batch, Projection projection, const RoutedRows& routed,
                                 MatrixView<const T> x, MatrixView<A> y) const {
    for (index_t e = 0; e < this->config().experts; ++e) {
        if (const index_t count = routed.count(e); count > 0) {
            const index_t begin = routed.begin(e);
            batch.push_back({linear(e, projection), x.rows(begin, count), y.rows(begin, count), false});
        }
    }
}

template <class T>
void GemmExperts<T>::project_back(Projection projection, const RoutedRows& routed, MatrixView<const T> x,
                                  MatrixView<const T> grad_y, MatrixView<A> grad_x, bool accumulate) {
    std::vector<LoraBackward<T>> batch;
    for (index_t e = 0; e < this->config().experts; ++e) {
        if (const index_t count = routed.count(e); count > 0) {
            const index_t begin = routed.begin(e);
            batch.push_back({linear(e, projection), x.rows(begin, count), grad_y.rows(begin, count),
                             grad_x.rows(begin, count), accumulate});
        }
    }
    lora_linear_backward<T>(kernels_, batch, this->workspace().lora);
}

template <class T>
void GemmExperts<T>::gather(const RoutedRows& routed, MatrixView<const T> tokens, Matrix<T>& rows) const {
    rows.resize(routed.rows(), tokens.cols());
    const MatrixView<T> out = rows;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < routed.rows(); ++row) {
        std::copy_n(tokens[routed.token[static_cast<std::size_t>(row)]], tokens.cols(), out[row]);
    }
}

template <class T>
void GemmExperts<T>::sum_over_choices(const RoutedRows& routed, MatrixView<const A> rows, MatrixView<A> tokens) const {
    const index_t choices = this->config().experts_per_token;
#pragma omp parallel for schedule(static)
    for (index_t t = 0; t < tokens.rows(); ++t) {
        A* out = tokens[t];
        std::fill_n(out, tokens.cols(), A(0));
        for (index_t k = 0; k < choices; ++k) {  // in the order of choices: the same sum at any thread count
            const A* in = rows[routed.row[static_cast<std::size_t>(t * choices + k)]];
            for (index_t h = 0; h < tokens.cols(); ++h) {
                out[h] += in[h];
            }
        }
    }
}

/// Computes workspace.activated, the input of the down projection. The routing weight is in it: experts are linear from
/// there on, so that neither the down projection's output nor its LoRA gradients need the weight again.
template <class T>
void GemmExperts<T>::activate(const SavedForward<T>& saved) {
    ExpertWorkspace<T>& work = this->workspace();
    const RoutedRows& routed = saved.routed;
    work.row_weights.resize(static_cast<std::size_t>(routed.rows()));
    for (std::size_t row = 0; row < work.row_weights.size(); ++row) {
        work.row_weights[row] = saved.weights.view()(routed.token[row], routed.choice[row]);
    }
    work.activated.resize(routed.rows(), this->config().intermediate);
    swiglu_forward<T>(saved.gate, saved.up, work.row_weights.data(), work.activated);
}

template <class T>
void GemmExperts<T>::do_forward(SavedForward<T>& saved) {
    ExpertWorkspace<T>& work = this->workspace();
    const RoutedRows& routed = saved.routed;
    gather(routed, saved.hidden, work.rows_in);
    for (const auto& [projection, pre_activation] :
         {std::pair{Projection::gate, &saved.gate}, std::pair{Projection::up, &saved.up}}) {
        pre_activation->resize(routed.rows(), this->config().intermediate);
        std::vector<LoraForward<T>> batch;
        if constexpr (std::is_same_v<T, A>) {
            add_forward(batch, projection, routed, work.rows_in, *pre_activation);
            lora_linear_forward<T>(kernels_, batch, work.lora);
        } else {
            work.activation.resize(routed.rows(), this->config().intermediate);
            add_forward(batch, projection, routed, work.rows_in, work.activation);
            lora_linear_forward<T>(kernels_, batch, work.lora);
            convert<T>(work.activation, *pre_activation);
        }
    }
    activate(saved);
    work.rows_out.resize(routed.rows(), this->config().hidden);
    std::vector<LoraForward<T>> batch;
    add_forward(batch, Projection::down, routed, work.activated, work.rows_out);
    lora_linear_forward<T>(kernels_, batch, work.lora);
    sum_over_choices(routed, work.rows_out, work.output);
}

template <class T>
void GemmExperts<T>::do_backward(const SavedForward<T>& saved, MatrixView<const T> grad_output) {
    ExpertWorkspace<T>& work = this->workspace();
    const RoutedRows& routed = saved.routed;
    const index_t intermediate = this->config().intermediate;
    gather(routed, grad_output, work.rows_grad);
    activate(saved);
    work.activation.resize(routed.rows(), intermediate);
    project_back(Projection::down, routed, work.activated, work.rows_grad, work.activation, false);

    work.grad_gate.resize(routed.rows(), intermediate);
    work.grad_up.resize(routed.rows(), intermediate);
    work.row_grad_weights.resize(static_cast<std::size_t>(routed.rows()));
    swiglu_backward<T>(work.activation, saved.gate, saved.up, work.row_weights.data(), work.grad_gate, work.grad_up,
                       work.row_grad_weights.data());
    for (std::size_t row = 0; row < work.row_grad_weights.size(); ++row) {
        work.grad_weights.view()(routed.token[row], routed.choice[row]) = work.row_grad_weights[row];
    }

    gather(routed, saved.hidden, work.rows_in);
    work.rows_out.resize(routed.rows(), this->config().hidden);
    project_back(Projection::gate, routed, work.rows_in, work.grad_gate, work.rows_out, false);
    project_back(Projection::up, routed, work.rows_in, work.grad_up, work.rows_out, true);
    sum_over_choices(routed, work.rows_out, work.grad_input);
}

template class GemmExperts<bf16>;
template class GemmExperts<float>;
template class GemmExperts<double>;

}  // namespace moesaic::model
