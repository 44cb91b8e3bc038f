#include "train/train_settings.hpp"

#include "core/options.hpp"

namespace moesaic::train {

void TrainSettings::declare(core::OptionSet& set) {
    set.add("train.epochs", epochs, "passes over the data, unless train.steps is set", core::at_least(1));
    set.add("train.steps", steps, "optimizer steps; 0: as many as train.epochs needs", core::at_least(0));
    batches.declare(set);
    schedule.declare(set);
    adamw.declare(set);
    coordinator.declare_clipping(set);
    set.add("train.seed", seed, "of initial LoRA factors and data order", core::at_least(0));
    set.add("train.eval_every", eval_every, "evaluate every so many steps besides start and end; 0: never",
            core::at_least(0));
    coordinator.declare_checkpoints(set);
    set.add("train.router_aux_coef", router_aux_coefficient,
            "factor on the routers' auxiliary loss, which is added to the loss; 0: without it", core::within(0, 1e3));
}

}  // namespace moesaic::train
