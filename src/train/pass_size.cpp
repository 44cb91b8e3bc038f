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
        options = fmt::format("{} = 1", choices.micro_batch_key);
    }
    if (choices.activations != ops::Activations::recompute) {
        options += fmt::format("{}{} = {}", options.empty() ? "" : " and ", choices.activations_key,
                               core::name_of(ops::Activations::recompute));
    }
    return fmt::format("with {} {:.1f} GiB", options, smallest.total() / core::gibibyte);
}

MemoryPlan fit_passes(const Runtime& runtime, const std::string& model, const PlanOfPasses& plan,
                      PassChoices& choices) {
    choices.micro_batch = choose_micro_batch(plan, choices, [&](const MemoryPlan& planned) {
        const bool fits_here = planned.total() <= static_cast<double>(runtime.memory_bytes());
        return runtime.world.min<std::int64_t>(fits_here ? 1 : 0) == 1;
    });
    MemoryPlan chosen = plan(choices.micro_batch, choices.activations);
    runtime.world.agree([&] {
        require_memory(runtime.placement, runtime.placement.node_ranks, model, chosen.total(),
                       cheaper_options(plan, choices));
    });
    return chosen;
}

}  // namespace moesaic::train
