#include "train/pass_size.hpp"

#include "core/enumeration.hpp"
#include "core/units.hpp"

#include <fmt/format.h>

namespace moesaic::train {

index_t choose_micro_batch(const PlanOfPasses& plan, const PassChoices& choices,
                           const std::function<bool(const MemoryPlan&)>& fits) {
    if (choices.micro_batch > 0 || choices.most == 1 || fits(plan(0, choices.activations))) {
        return choices.micro_batch;
    }
    index_t micro_batch = (choices.most + 1) / 2;
    while (micro_batch > 1 && !fits(plan(micro_batch, choices.activations))) {
        micro_batch = (micro_batch + 1) / 2;
    }
    return micro_batch;
}

std::string cheaper_options(const PlanOfPasses& plan, const PassChoices& choices) {
    const double needed = plan(choices.micro_batch, choices.activations).total();
    const MemoryPlan smallest = plan(1, ops::Activations::recompute);
    if (smallest.total() >= needed) {
        return {};
    }
    std::string options;
    if (choices.micro_batch != 1) {
        options = "train.micro_batch = 1";
    }
    if (choices.activations != ops::Activations::recompute) {
        options += fmt::format("{}train.activations = {}", options.empty() ? "" : " and ",
                               core::name_of(ops::Activations::recompute));
    }
    return fmt::format("with {} {:.1f} GiB", options, smallest.total() / core::gibibyte);
}

}  // namespace moesaic::train
