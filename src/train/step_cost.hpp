// How long a training step takes on a grid of ranks that nobody has run.
#pragma once

#include "model/adapters/lora_settings.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_workspace.hpp"
#include "train/machine_rates.hpp"
#include "train/step_work.hpp"

#include <vector>

namespace moesaic::train {

/// Steps to come.
struct StepsToCome {
    mpi::GridShape grid = {1, 1, 1};
    index_t host_ranks = 1;  ///< consecutive ranks that share a host
    index_t threads = 1;     ///< of a rank
    ops::Activations activations = ops::Activations::retain;
    index_t batch_size = 1;               ///< sequences of a step, all ranks together
    index_t micro_batch = 0;              ///< sequences per rank and pass; 0: all of a step
    double sequence_length = 1;           ///< of each
    index_t chunks = 0;                   ///< in which rows travel; 0: as the decoder chooses
    bool training = true;                 ///< otherwise forward passes alone
    std::vector<double> popularity = {};  ///< part of the choices that each expert gets; empty: all the same

    /// Forward passes of a step.
    [[nodiscard]] index_t passes() const;
};

/// Seconds of the rank that has most to do, by what for.
struct StepCost {
    double experts = 0;
    double other = 0;      ///< attention, dense layers, shared experts, head
    double exchange = 0;   ///< of rows, and waiting for each other in every layer
    double reduction = 0;  ///< of gradients, and the optimizer

    [[nodiscard]] double total() const { return experts + other + exchange + reduction; }
};

/// Steps of one model.
class CostModel {
public:
    /// The architecture has the formats that weights are held in.
    CostModel(const model::Architecture& architecture, const model::LoraSettings& lora);

    [[nodiscard]] StepCost of(const StepsToCome& steps, const MachineRates& rates) const;

private:
    struct Pass;
    /// LoRA factors of all layers that ranks hold, by how they share them.
    struct Adapters {
        double whole = 0;   ///< elements of one expert that every rank of its tensor group holds
        double sliced = 0;  ///< elements of one expert that are spread over the group
        double other = 0;   ///< elements of other projections
    };
    void add_pass(const Pass& pass, StepCost& cost) const;
    void add_exchange(const Pass& pass, StepCost& cost) const;
    [[nodiscard]] double reduction(const StepsToCome& steps, const MachineRates& rates) const;
    [[nodiscard]] double padded_slice(index_t tensor) const;

    model::Architecture architecture_;
    ModelWork work_;
    Adapters adapters_;
};

}  // namespace moesaic::train
