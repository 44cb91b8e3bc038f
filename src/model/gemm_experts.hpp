// Experts computed as batches of matrix products on gathered token rows, weights kept as T.
#pragma once

#include "kernels/gemm.hpp"
#include "model/expert_backend.hpp"

#include <memory>

namespace moesaic::model {

template <class T>
class GemmExperts final : public ExpertBackend<T> {
public:
    using A = accumulator_t<T>;

    /// `kernels` must outlive the object.
    GemmExperts(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<T>> workspace,
                const kernels::KernelSet& kernels);

private:
    void do_load_weights(const ExpertWeightSource<T>& source) override;
    void do_update_lora() override;
    void do_forward(SavedForward<T>& saved) override;
    void do_backward(const SavedForward<T>& saved, MatrixView<const T> grad_output) override;

    [[nodiscard]] LoraLinear<T> linear(index_t expert, Projection projection) const;
    /// One entry per expert with tokens: y = P(x) on this expert's rows of x and y.
    void add_forward(std::vector<LoraForward<T>>& batch, Projection projection, const RoutedRows& routed,
                     MatrixView<const T> x, MatrixView<A> y) const;
    void project_back(Projection projection, const RoutedRows& routed, MatrixView<const T> x,
                      MatrixView<const T> grad_y, MatrixView<A> grad_x, bool accumulate);
    void gather(const RoutedRows& routed, MatrixView<const T> tokens, Matrix<T>& rows) const;
    void sum_over_choices(const RoutedRows& routed, MatrixView<const A> rows, MatrixView<A> tokens) const;
    void activate(const SavedForward<T>& saved);

    const kernels::KernelSet& kernels_;
    std::array<Matrix<T>, projections.size()> weights_;  // gate, up: [E * I, H]; down: [E * H, I]
    std::array<Matrix<T>, projections.size()> lora_a_;   // the factors as T, where T is not the masters' type
    std::array<Matrix<T>, projections.size()> lora_b_;
    ExpertFactors<const T> operands_;
};

}  // namespace moesaic::model
