// The option for ops::ExpertArithmetic, and what it makes of the choice of weights beside it.
#pragma once

#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/options.hpp"
#include "ops/weights/weight_format.hpp"

#include <optional>
#include <string_view>

namespace moesaic::ops {

inline void declare_arithmetic(core::OptionSet& set, ExpertArithmetic& arithmetic) {
    set.add_enum("compute.experts", arithmetic,
                 "what routed experts multiply their frozen weights in: auto, as compute.precision says; int8: weights "
                 "and tokens are rounded to 8 bits, with a scale for each row, which errs by about two percent");
}

/// The format that was chosen, if any. Throws a usage error if both contradict each other; `key` is the option of
/// `weights`.
[[nodiscard]] inline std::optional<WeightFormat> chosen_format(WeightChoice weights, ExpertArithmetic arithmetic,
                                                               std::string_view key) {
    if (arithmetic == ExpertArithmetic::automatic) {
        return chosen_format(weights);
    }
    core::require(weights == WeightChoice::automatic || weights == WeightChoice::int8, core::ExitCode::usage,
                  "compute.experts = {} with {} = {} (it multiplies weights in INT8); remove one of them",
                  core::name_of(arithmetic), key, core::name_of(weights));
    return WeightFormat::int8_rows;
}

}  // namespace moesaic::ops
