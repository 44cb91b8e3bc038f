#include "train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::train {

double Schedule::at(index_t step) const {
    if (step < warmup_steps) {
        return learning_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
    }
    const auto decay_steps = static_cast<double>(std::max(total_steps - warmup_steps, index_t{1}));
    const double progress = std::min(static_cast<double>(step - warmup_steps) / decay_steps, 1.0);
    if (shape == "linear") {
        return learning_rate * (1.0 - progress);
    }
    if (shape == "cosine") {
        return learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    }
    return learning_rate;
}

}  // namespace moesaic::train
