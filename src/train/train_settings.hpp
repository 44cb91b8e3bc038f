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
    double router_aux_coefficient = 0;  ///< of the routers' auxiliary loss; needs a decoder with keep_probabilities

    void declare(core::OptionSet& set);
};

}  // namespace moesaic::train
