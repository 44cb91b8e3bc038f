// A mixture of experts: router, routed experts and, beside them, a shared one.
#pragma once

#include "model/block.hpp"
#include "model/decoder_settings.hpp"
#include "model/feed_forward/gated_mlp.hpp"
#include "model/feed_forward/moe_plan.hpp"
#include "model/feed_forward/token_exchange.hpp"
#include "ops/expert_backend.hpp"

#include <memory>
#include <vector>

namespace moesaic::model {

/// Each rank of a replica holds slices of some of the routed experts: rows go to the ranks that hold their experts,
/// each rank computes its share of every result, and sums return to the rows' owners. A shared expert is replicated;
/// its output is multiplied, where the architecture says so, by the sigmoid of a frozen projection of the input.
template <class Scalar>
class MoeLayer final : public Block<Scalar> {
public:
    using Sum = accumulator_t<Scalar>;

    MoeLayer(const Architecture& architecture, index_t layer, BlockPlan plan, const DecoderSettings& settings,
             const LoraParameters<Sum>& parameters, Workspace<Scalar>& workspace);

    void load(const WeightSource<Scalar>& source) override;
    void update_lora() override;
    [[nodiscard]] std::unique_ptr<BlockState<Scalar>> make_state() const override { return std::make_unique<State>(); }
    /// The router does.
    [[nodiscard]] bool reads_exact_input() const override { return true; }
    void forward(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, BlockState<Scalar>& state,
                 MatrixView<Sum> output, bool keep) override;
    void backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const BlockState<Scalar>& state,
                  MatrixView<const Sum> grad_output, std::span<const Sum> grad_probabilities,
                  MatrixView<Sum> grad_input) override;

private:
    /// Of rows that travel to their experts together.
    struct Chunk {
        ArrivedRows<Scalar> arrived;
        ops::SavedExperts<Scalar> experts;
    };
    struct State final : BlockState<Scalar> {
        Matrix<Sum> scores;               // [T, E]
        Matrix<Sum> probabilities;        // [T, E] softmax of the logits, if wanted and if scores are not that
        Matrix<std::int32_t> expert_ids;  // [T, K]
        Matrix<Sum> expert_weights;       // [T, K]
        std::vector<RowRoutes> routes;    // [chunks]
        std::vector<Chunk> chunks;
        GatedMlpState<Scalar> shared;
        Matrix<Sum> shared_weights;  // [T, 1] of a gated shared expert
        Routing<Sum> routing_of_rows;

        [[nodiscard]] const Routing<Sum>* routing() const noexcept override { return &routing_of_rows; }
    };

    [[nodiscard]] std::vector<MatrixView<Sum>> tensors() override;
    void route(MatrixView<const Sum> input, State& state) const;
    void run_experts(const Pass<Scalar>& pass, MatrixView<const Scalar> input, State& state, MatrixView<Sum> output,
                     bool keep);
    void experts_backward(const State& state, MatrixView<const Sum> grad_output, MatrixView<Sum> grad_input);
    /// Adds what the routing weights' gradients, in the scratch, and those of probabilities say about the input.
    void route_backward(const State& state, std::span<const Sum> grad_probabilities, MatrixView<Sum> grad_input) const;
    /// Adds the shared expert's output to `output`, unless that has no columns.
    void run_shared(const Pass<Scalar>& pass, const ops::RoundedRows<Scalar>& input, State& state,
                    MatrixView<Sum> output) const;
    /// Adds to grad_input unless it is empty.
    void shared_backward(const Pass<Scalar>& pass, MatrixView<const Scalar> input, const State& state,
                         MatrixView<const Sum> grad_output, MatrixView<Sum> grad_input) const;
    [[nodiscard]] bool has_shared() const { return !this->linears().empty(); }
    [[nodiscard]] std::span<const ops::LoraLinear<Scalar>, 3> shared_projections() const {
        return this->linears().template first<3>();
    }
    /// Gate, up and down of the routed experts.
    [[nodiscard]] const ProjectionPlan& routed(ops::Projection p) const;

    const Architecture& architecture_;
    bool keeps_softmax_;
    std::unique_ptr<ops::ExpertBackend<Scalar>> experts_;
    GatedMlp<Scalar> shared_;
    /// [E, H], and used, in the accumulator's type: the choice of experts is not continuous, so rounding the logits to
    /// Scalar would send tokens to other experts than FP32 does.
    Matrix<Sum> router_weight_;
    Matrix<Sum> correction_bias_;  // [1, E] or empty
    Matrix<Sum> shared_gate_;      // [1, H] or empty
};

}  // namespace moesaic::model
