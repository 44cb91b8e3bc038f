// Learning rate schedules, as transformers defines them.
#pragma once

#include "core/matrix.hpp"

#include <string>

namespace moesaic::train {

using core::index_t;

struct Schedule {
    std::string shape = "constant";  ///< constant, linear (to zero at the end) or cosine (half a period, to zero)
    double learning_rate = 0;
    index_t warmup_steps = 0;  ///< linear from zero
    index_t total_steps = 0;

    /// Learning rate of `step`, which counts from 0.
    [[nodiscard]] double at(index_t step) const;
};

}  // namespace moesaic::train
