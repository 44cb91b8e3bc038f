// What a training run does with its model and its data.
#pragma once

#include "train/adamw.hpp"
#include "train/batches.hpp"
#include "train/coordinator.hpp"
#include "train/schedule.hpp"

namespace moesaic::train {

struct TrainSettings {
    index_t epochs = 1;  ///< passes over the data, unless `steps` is set
    index_t steps = 0;
    BatchSettings batches;
    Schedule schedule;  ///< total_steps follows from the above
    AdamWSettings adamw;
    CoordinatorSettings coordinator;
    index_t seed = 0;                   ///< of initial LoRA factors, dropout and data order
    index_t eval_every = 0;             ///< steps, besides start and end; 0: never
    index_t patience = 0;               ///< evaluations without gain that end the run; 0: none do
    double router_aux_coefficient = 0;  ///< of the routers' auxiliary loss; needs a decoder with keep_probabilities

    void declare(core::OptionSet& set);
    /// Optimizer steps of a run whose epochs have so many sequences.
    [[nodiscard]] index_t total_steps(index_t epoch_size) const;
    /// Throws a usage error for settings that contradict each other.
    void require_sensible(index_t epoch_size) const;
};

}  // namespace moesaic::train
