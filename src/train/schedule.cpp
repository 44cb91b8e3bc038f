#include "train/schedule.hpp"

#include "core/options.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::train {

void Schedule::declare(core::OptionSet& set) {
    set.add("train.lr", learning_rate, "learning rate of AdamW", core::within(0, 1e3)).known_as({"learning_rate"});
    set.add_enum("train.schedule", shape,
                 "course of the learning rate after the warm-up: constant, or linear or cosine down to 0")
        .known_as({"lr_scheduler_type", "lr_scheduler", "scheduler"});
    set.add("train.warmup_steps", warmup_steps, "steps in which the learning rate rises from 0", core::at_least(0))
        .known_as({"warmup_ratio", "warmup"}, "a number of steps");
}

double Schedule::at(index_t step) const {
    if (step < warmup_steps) {
        return learning_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
    }
    const auto decay_steps = static_cast<double>(std::max(total_steps - warmup_steps, index_t{1}));
    const double progress = std::min(static_cast<double>(step - warmup_steps) / decay_steps, 1.0);
    switch (shape) {
        case ScheduleShape::constant:
            break;
        case ScheduleShape::linear:
            return learning_rate * (1.0 - progress);
        case ScheduleShape::cosine:
            return learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    }
    return learning_rate;
}

}  // namespace moesaic::train
