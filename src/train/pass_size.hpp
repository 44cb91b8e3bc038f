// How many sequences a pass takes, from what the memory holds.
#pragma once

#include "core/matrix.hpp"
#include "ops/expert_workspace.hpp"
#include "train/runtime.hpp"

#include <functional>
#include <string>
#include <string_view>

namespace moesaic::train {

/// Plans the memory of a rank with so many sequences per rank and pass; 0: all of an optimizer step.
using PlanOfPasses = std::function<MemoryPlan(index_t micro_batch, ops::Activations activations)>;

/// What is chosen among.
struct PassChoices {
    index_t micro_batch = 0;  ///< as the user sets it; 0: the most that fit
    index_t most = 1;         ///< sequences of a rank in an optimizer step, if they are spread evenly
    ops::Activations activations = ops::Activations::retain;
    std::string_view micro_batch_key = "train.micro_batch";  ///< options, for messages
    std::string_view activations_key = "train.activations";
};

/// Sequences per rank and pass: what was set; or 0, which is all, or the largest part of `most` by halves that `fits`
/// accepts; 1 if nothing fits.
[[nodiscard]] index_t choose_micro_batch(const PlanOfPasses& plan, const PassChoices& choices,
                                         const std::function<bool(const MemoryPlan&)>& fits);

/// Which options would need less memory than `choices` do, with figures: "with train.micro_batch = 1 and
/// train.activations = recompute 70.6 GiB". Empty if none would.
[[nodiscard]] std::string cheaper_options(const PlanOfPasses& plan, const PassChoices& choices);

/// Collective. Chooses `choices.micro_batch` for the memory that the ranks have, and returns the plan with it. Throws
/// with ExitCode::out_of_resources what does not fit even so.
MemoryPlan fit_passes(const Runtime& runtime, const std::string& model, const PlanOfPasses& plan, PassChoices& choices);

}  // namespace moesaic::train
