#include "measure/headline.hpp"

namespace moesaic::measure {

std::optional<Headline> headline_of(const std::vector<CaseResult>& cases) {
    const CaseResult* best = nullptr;
    const Figure* speed = nullptr;
    for (const CaseResult& result : cases) {
        const Figure* const found =
            result.benchmark == "reference" ? result.find(figures::step_tokens_per_second) : nullptr;
        if (found != nullptr && found->summary.n >= least_repetitions_of_headline &&
            (speed == nullptr || found->value > speed->value)) {
            best = &result;
            speed = found;
        }
    }
    if (best == nullptr) {
        return std::nullopt;
    }
    return Headline{.name = "moesaic_tokens_per_second",
                    .unit = speed->unit,
                    .value = speed->value,
                    .low = speed->summary.low,
                    .high = speed->summary.high,
                    .case_name = best->name,
                    .floor_percent = speed->floor_percent};
}

}  // namespace moesaic::measure
