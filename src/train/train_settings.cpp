#include "train/train_settings.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/options.hpp"

namespace moesaic::train {

void TrainSettings::declare(core::OptionSet& set) {
    set.add("train.epochs", epochs, "passes over the data, unless train.steps is set", core::at_least(1))
        .known_as({"num_train_epochs", "num_epochs", "n_epochs"});
    set.add("train.steps", steps, "optimizer steps; 0: as many as train.epochs needs", core::at_least(0))
        .known_as({"max_steps", "num_train_steps", "iters"});
    schedule.declare(set);
    batches.declare(set);
    set.add("train.eval_every", eval_every, "steps between evaluations, besides those at start and end; 0: only those",
            core::at_least(0))
        .known_as({"eval_steps", "eval_strategy", "evaluation_strategy", "eval_interval"});
    set.add("train.patience", patience, "evaluations in a row without a lower loss that end the run; 0: it goes on",
            core::at_least(0))
        .known_as({"early_stopping_patience", "early_stopping"});
    coordinator.declare_checkpoints(set);
    set.add("train.seed", seed, "seed for initial LoRA factors, dropout and the order of data", core::at_least(0));
    adamw.declare(set);
    coordinator.declare_clipping(set);
    set.add("train.router_aux_coef", router_aux_coefficient,
            "factor on the routers' auxiliary loss, which is added to the loss; 0: without it", core::within(0, 1e3))
        .known_as({"router_aux_loss_coef", "moe_aux_loss_coef", "aux_loss_coef"});
    set.explain({"optim", "optimizer"}, "the optimizer is AdamW");
}

index_t TrainSettings::total_steps(index_t epoch_size) const {
    return steps > 0 ? steps : epochs * batches.steps_per_epoch(epoch_size);
}

void TrainSettings::require_sensible(index_t epoch_size) const {
    const index_t total = total_steps(epoch_size);
    core::require(schedule.warmup_steps < total, core::ExitCode::usage,
                  "train.warmup_steps = {} leaves nothing of the run's {} (the learning rate would not reach "
                  "train.lr); use fewer",
                  schedule.warmup_steps, core::counted(total, "step"));
}

}  // namespace moesaic::train
