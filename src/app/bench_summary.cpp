#include "app/bench_summary.hpp"

#include <fmt/format.h>

namespace moesaic::app {

std::optional<bench::Headline> headline_of(const std::vector<bench::CaseResult>& cases) {
    const bench::CaseResult* best = nullptr;
    for (const bench::CaseResult& result : cases) {
        if (result.benchmark == "reference" &&
            (best == nullptr || result.ranks * result.threads >= best->ranks * best->threads)) {
            best = &result;
        }
    }
    if (best == nullptr) {
        return std::nullopt;
    }
    const bench::Figure& figure = *best->find("step_tokens_per_second");
    return bench::Headline{.name = "moesaic_tokens_per_second",
                           .unit = figure.unit,
                           .value = figure.value,
                           .low = figure.summary.low,
                           .high = figure.summary.high,
                           .case_name = best->name,
                           .floor_percent = figure.floor_percent};
}

void print_figures(const bench::Results& results) {
    for (const std::string& warning : results.warnings) {
        fmt::print("warning: {}\n", warning);
    }
    for (const bench::Difference& difference : results.differences) {
        fmt::print("warning: ranks differ in {}\n", difference.key);
    }
    // A benchmark alone needs no name before its figures; in a suite, and with several ranks or threads, each case has
    // one.
    const bool alone = results.cases.size() == 1 && results.cases.front().name == results.cases.front().benchmark &&
                       results.command != "bench suite";
    for (const bench::CaseResult& result : results.cases) {
        bench::print_figures(result, alone ? "" : result.name + "/");
    }
    if (const auto& headline = results.headline) {
        fmt::print("{:.6g} tokens/s [{:.6g}, {:.6g}] with {}; {:.1f} % of what the machine's limits allow\n",
                   headline->value, headline->low, headline->high, headline->case_name,
                   headline->floor_percent.value_or(0));
        fmt::print("FOM {}_floor = {:.6g} percent\n", headline->name, headline->floor_percent.value_or(0));
        fmt::print("FOM {} = {:.6g} {}\n", headline->name, headline->value, headline->unit);
    }
}

void print_scaling(const std::vector<CaseSpec>& specs, const std::vector<bench::CaseResult>& cases) {
    for (const CaseSpec& spec : specs) {
        const bench::CaseResult* first = nullptr;
        for (const bench::CaseResult& result : cases) {
            if (!result.name.starts_with(spec.name + "@")) {
                continue;
            }
            if (first == nullptr) {
                first = &result;
                fmt::print("scaling of {} from {} x {} (ranks x threads)\n", spec.name, first->ranks, first->threads);
                continue;
            }
            const auto cores =
                static_cast<double>(result.ranks * result.threads) / static_cast<double>(first->ranks * first->threads);
            for (const bench::Figure& figure : result.figures) {
                if (figure.better == bench::Better::neither) {
                    continue;
                }
                const double ratio = figure.value / first->find(figure.name)->value;
                const double of_rank = figure.better == bench::Better::lower ? 1 / ratio : ratio;
                const double work =
                    spec.kind->alone ? static_cast<double>(result.ranks) / static_cast<double>(first->ranks) : 1;
                fmt::print("  {:>4} x {:<4} {:<28} {:>8.2f} times as fast, efficiency {:5.1f} %\n", result.ranks,
                           result.threads, figure.name, of_rank * work, 100 * of_rank * work / cores);
            }
        }
    }
}

}  // namespace moesaic::app
