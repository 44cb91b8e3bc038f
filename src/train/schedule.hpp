// Learning rate schedules, as transformers defines them.
#pragma once

#include "core/matrix.hpp"

#include <array>
#include <cstdint>
#include <string_view>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::train {

using core::index_t;

/// What becomes of the learning rate after the warm-up.
enum class ScheduleShape : std::uint8_t {
    constant,
    linear,  ///< to zero at the end
    cosine,  ///< half a period, to zero at the end
};
constexpr auto names_of(ScheduleShape) {
    return std::to_array<std::string_view>({"constant", "linear", "cosine"});
}

struct Schedule {
    ScheduleShape shape = ScheduleShape::linear;
    double learning_rate = 1e-4;
    index_t warmup_steps = 0;  ///< linear from zero
    index_t total_steps = 0;

    void declare(core::OptionSet& set);
    /// Learning rate of `step`, which counts from 0.
    [[nodiscard]] double at(index_t step) const;
};

}  // namespace moesaic::train
