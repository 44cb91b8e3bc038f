// Steps that are to be measured: what is trained in them, and what is known before they have a grid.
#pragma once

#include "train/batches.hpp"
#include "train/grid_choice.hpp"

#include <memory>
#include <optional>

namespace moesaic::bench {

using core::index_t;

/// What is trained in one step.
struct StepWorkload {
    [[nodiscard]] index_t tokens() const { return batches.batch_size * length; }

    train::ModelSettings model = {};
    model::DecoderSettings decoder = {.lora = {.rank = 16}};
    train::BatchSettings batches = {};
    index_t length = 0;  ///< tokens per sequence
};

/// The model of a workload, and the memory that its passes need.
class StepPlans {
public:
    static constexpr const char* micro_batch_key = "micro-batch";
    static constexpr const char* activations_key = "activations";

    /// Collective. `workload` must outlive the object.
    StepPlans(const train::Ranks& ranks, const mpi::GridSettings& wanted, const StepWorkload& workload);
    StepPlans(const StepPlans&) = delete;  // the plan refers to the object
    StepPlans& operator=(const StepPlans&) = delete;

    /// With the formats that weights are held in.
    [[nodiscard]] const model::Architecture& architecture() const noexcept { return architecture_; }
    /// Those of the workload, with a scale of 1: speed does not depend on it.
    [[nodiscard]] const model::LoraSettings& lora() const noexcept { return lora_; }
    /// Of all ranks.
    [[nodiscard]] index_t tokens_of_pass(index_t micro_batch, index_t ranks) const {
        return workload_.batches.with(micro_batch).per_pass(ranks) * workload_.length;
    }
    [[nodiscard]] const train::PlanOfPasses& plan() const noexcept { return plan_; }
    [[nodiscard]] train::PassOptions options(const mpi::GridShape& grid) const;
    [[nodiscard]] train::GridQuestion question() const;

private:
    const StepWorkload& workload_;
    mpi::GridSettings wanted_;
    model::LoraSettings lora_;
    model::Architecture architecture_;
    std::unique_ptr<train::PassPlanner> planner_;
    train::PlanOfPasses plan_;
    train::StepsToCome steps_;
};

/// Collective. The model of the workload with random LoRA factors.
[[nodiscard]] std::unique_ptr<model::Decoder<core::bf16>> load_random_factors(const train::Runtime& runtime,
                                                                              const model::Architecture& architecture,
                                                                              const StepWorkload& workload);

}  // namespace moesaic::bench
