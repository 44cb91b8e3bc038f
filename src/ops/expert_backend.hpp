// The expert backend: the routed experts of one MoE layer, forward and backward with LoRA, as an object that other
// programs can embed. Buffer handling and the rules of use are here; the arithmetic is in subclasses. What a forward
// saves belongs to the caller: a tape, or ExpertStack for callers that have none.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/expert_workspace.hpp"
#include "ops/lora.hpp"
#include "ops/weights/packed_weights.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace moesaic::ops {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;

enum class Projection : std::uint8_t { gate, up, down };
inline constexpr std::array projections = {Projection::gate, Projection::up, Projection::down};

struct ExpertConfig {
    index_t layer = 0;               ///< for messages
    index_t experts = 0;             ///< E, or how many of them this rank has
    index_t experts_begin = 0;       ///< the first of these: choices of the others are left out of all sums
    index_t experts_of_layer = 0;    ///< all ranks together; 0: `experts`
    index_t experts_per_token = 0;   ///< K
    index_t hidden = 0;              ///< H
    index_t intermediate = 0;        ///< I, or this rank's slice of it
    index_t intermediate_begin = 0;  ///< where that slice begins, for dropout
    index_t max_tokens = 0;          ///< largest T of a forward
    index_t lora_rank = 0;           ///< R
    double lora_alpha = 0;           ///< adapters are scaled by alpha / R
    /// Scales of single adapters, [E] per projection, in place of what alpha and R give; empty: one scale for all.
    std::array<std::vector<double>, projections.size()> lora_scales{};
    bool skip_lora = false;                       ///< frozen experts without adapters: input gradients only
    std::optional<WeightFormat> weight_format{};  ///< of the frozen weights; none: that of activations
    Activations activations = Activations::retain;

    /// Of the expert at `expert` among those of this rank.
    [[nodiscard]] double lora_scale(Projection projection, index_t expert) const;
    /// What expert_ids may be: [0, this).
    [[nodiscard]] index_t all_experts() const noexcept { return experts_of_layer > 0 ? experts_of_layer : experts; }
};

/// LoRA factors, or their gradients, of all experts of a layer, expert after expert in the rows: A of gate and up
/// [E * R, H], of down [E * R, I]; B of gate and up [E * I, R], of down [E * H, R].
template <class S>
struct ExpertFactors {
    std::array<LoraMatrices<S>, projections.size()> of_projection;

    [[nodiscard]] const LoraMatrices<S>& operator[](Projection p) const {
        return of_projection[static_cast<std::size_t>(p)];
    }
    [[nodiscard]] LoraMatrices<S>& operator[](Projection p) { return of_projection[static_cast<std::size_t>(p)]; }
};

/// Fills `out` with the frozen weight of one expert: gate and up [I, H], down [H, I]. Called by several threads at
/// once.
using ExpertWeightSource = std::function<void(index_t expert, Projection projection, PackedMatrix out)>;

/// Gradients of one forward: with respect to hidden [T, H] and routing weights [T, K].
template <class Scalar>
struct ExpertGradients {
    MatrixView<const accumulator_t<Scalar>> input;
    MatrixView<const accumulator_t<Scalar>> weights;
};

/// SavedExperts, without the views of hidden states and weights.
[[nodiscard]] std::vector<BufferPlan> plan_saved_experts(const ExpertConfig& config);
/// ExpertWorkspace; `results_are_given`: output and gradients of hidden states are written to memory of the caller's.
[[nodiscard]] std::vector<BufferPlan> plan_expert_workspace(const ExpertConfig& config, bool has_dropout,
                                                            bool results_are_given = false);
/// Sets the counts that those two go by for rows that arrived, with so many choices that are experts of the layer, all
/// of them equally often. The count of threads must be there.
void count_routed(const ExpertConfig& config, double arrived, double routed, RowCounts& rows);

/// The routed experts of one layer. Scalar is the type of activations, accumulator_t<Scalar> that of results, LoRA
/// masters and gradients. Wrong use throws core::Error with both numbers; the object stays usable.
template <class Scalar>
class ExpertBackend {
public:
    using Sum = accumulator_t<Scalar>;

    virtual ~ExpertBackend() = default;
    ExpertBackend(const ExpertBackend&) = delete;
    ExpertBackend& operator=(const ExpertBackend&) = delete;

    [[nodiscard]] const ExpertConfig& config() const noexcept { return config_; }

    void load_weights(const ExpertWeightSource& source);
    /// Factors and gradients stay with the caller, who updates the former and clears the latter.
    void init_lora(const ExpertFactors<const Sum>& factors, const ExpertFactors<Sum>& gradients);
    /// Call after the factors changed.
    void update_lora();
    /// Throws unless weights and factors are there and no submission is in flight.
    void require_ready(const char* operation) const;

    /// y[t] = sum_k weights[t, k] * E_{expert_ids[t, k]}(hidden[t]), [N, H], written to `output` if that is given. Else
    /// the view is valid until the next call on any backend with the same workspace. Writes `saved`; a backward may
    /// follow if the forward is to `keep` what that needs. Dropout acts on the inputs of A, also in the backward of
    /// this forward.
    MatrixView<const Sum> forward(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved, bool keep,
                                  MatrixView<Sum> output = {});
    /// Writes `saved` as a forward of these rows would, without computing anything, where a backward computes gate and
    /// up again.
    void save(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved) const;
    /// Backward of a forward that was kept, once or more often, in any order of forwards. LoRA gradients accumulate.
    /// Without input gradients, those of hidden states and routing weights are not computed and the result is empty:
    /// for the lowest layer of a model. The gradient of hidden states is written to `grad_input` if that is given.
    ExpertGradients<Scalar> backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,  // [N, H]
                                     bool with_input_gradients = true, MatrixView<Sum> grad_input = {});

    /// The same without blocking: inputs and `saved` must stay until the sync, which returns the result or throws the
    /// error. The result is valid until the next sync, so that the next submission may follow at once.
    void submit_forward(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved, bool keep);
    MatrixView<const Sum> sync_forward();
    void submit_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,
                         bool with_input_gradients = true);
    ExpertGradients<Scalar> sync_backward();

    /// Waits for a submission that was never synced, as after an exception: to be called before its inputs, or `saved`,
    /// go. Subclasses call it when they are destroyed.
    void abandon() noexcept;

    /// Bytes of frozen weights, padding included.
    [[nodiscard]] virtual std::size_t weight_bytes() const noexcept = 0;
    /// Gives back the memory of the work buffers, which other layers share.
    void clear_cache();

protected:
    ExpertBackend(const ExpertConfig& config, std::shared_ptr<ExpertWorkspace<Scalar>> workspace);

    virtual void do_load_weights(const ExpertWeightSource& source) = 0;
    /// Called by init_lora and update_lora; `factors()` holds the present values.
    virtual void do_update_lora() = 0;
    /// Computes `output` [N, H] and, to `keep` it, saved.pre_activations. The other members of `saved` are set.
    virtual void do_forward(SavedExperts<Scalar>& saved, bool keep, MatrixView<Sum> output) = 0;
    /// Accumulates into gradients(); computes `grad_input` [N, H] and grad_weights of the workspace if asked to.
    virtual void do_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,
                             bool with_input_gradients, MatrixView<Sum> grad_input) = 0;

    [[nodiscard]] ExpertWorkspace<Scalar>& workspace() const noexcept { return *workspace_; }
    [[nodiscard]] const ExpertFactors<const Sum>& factors() const noexcept { return factors_; }
    [[nodiscard]] const ExpertFactors<Sum>& gradients() const noexcept { return gradients_; }

private:
    enum class Pending : std::uint8_t { nothing, forward, backward };

    void check_forward(const ExpertRows<Scalar>& rows) const;
    void check_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output) const;
    /// Results for so many tokens: `given`, or `own` where nothing is given.
    [[nodiscard]] MatrixView<Sum> results(const char* what, index_t tokens, MatrixView<Sum> given,
                                          Matrix<Sum>& own) const;
    void save_rows(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved) const;
    MatrixView<const Sum> run_forward(const ExpertRows<Scalar>& rows, SavedExperts<Scalar>& saved, bool keep,
                                      MatrixView<Sum> output = {});
    ExpertGradients<Scalar> run_backward(const SavedExperts<Scalar>& saved, MatrixView<const Scalar> grad_output,
                                         bool with_input_gradients, MatrixView<Sum> grad_input = {});
    void submit(Pending kind, std::function<void()> job);
    void sync(Pending kind, const char* operation);

    ExpertConfig config_;
    std::shared_ptr<ExpertWorkspace<Scalar>> workspace_;
    ExpertFactors<const Sum> factors_;
    ExpertFactors<Sum> gradients_;
    bool has_weights_ = false;
    bool has_lora_ = false;
    Pending pending_ = Pending::nothing;
    MatrixView<const Sum> pending_output_;
    ExpertGradients<Scalar> pending_gradients_;
};

}  // namespace moesaic::ops
