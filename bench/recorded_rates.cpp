#include "bench/recorded_rates.hpp"

#include "core/error.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::bench {

train::MachineRates recorded_rates(const measure::Results& results, const std::string& file) {
    const measure::CaseResult* best = nullptr;
    const measure::Figure* step = nullptr;
    for (const measure::CaseResult& found : results.cases) {
        const measure::Figure* seconds = found.find("step_seconds");
        const bool has_limits = found.machine && !found.machine->peak.empty() && !found.machine->dram_read.empty();
        if (has_limits && (best == nullptr || (step == nullptr && seconds != nullptr))) {
            best = &found;
            step = seconds != nullptr && seconds->floor_percent.value_or(0) > 0 ? seconds : nullptr;
        }
    }
    core::require(best != nullptr, core::ExitCode::usage,
                  "benchmark = {}: no case has limits of the machine; take a result of moesaic bench machine, suite "
                  "or step",
                  file);
    const auto& levels = kernels::levels();
    const auto level = std::find_if(levels.begin(), levels.end(),
                                    [&](const kernels::Level& known) { return known.name == best->machine->level; });
    train::MachineRates rates =
        train::usual_rates(level == levels.end() ? kernels::Isa::portable : level->isa, best->threads);
    rates.limits = {measure::best_of(best->machine->peak) * 1e9, measure::best_of(best->machine->dram_read) * 1e9};
    if (step != nullptr) {
        const double part = *step->floor_percent / 100;
        rates.efficiency = {.experts = part, .projections = part, .scores = part};
    }
    rates.source = fmt::format("{}, {}", file, best->name);
    return rates;
}

}  // namespace moesaic::bench
