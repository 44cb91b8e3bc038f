#include "bench/summary.hpp"

#include "bench/console.hpp"
#include "core/standard_output.hpp"
#include "measure/headline.hpp"
#include "measure/scaling.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>

namespace moesaic::bench {

std::vector<std::string> beyond_limits(const measure::CaseResult& result) {
    std::vector<std::string> lines;
    for (const measure::Figure& figure : result.figures) {
        if (figure.floor_percent.value_or(0) > 100) {
            lines.push_back(fmt::format(
                "{}: {} is at {:.0f} % of what the machine's limits allow: they were measured while something "
                "else disturbed it, or this was in the caches",
                result.name, figure.name, *figure.floor_percent));
        }
    }
    return lines;
}

void print_figures(const measure::Results& results) {
    for (const std::string& warning : results.warnings) {
        core::print(fmt::format("warning: {}\n", warning));
    }
    for (const measure::Difference& difference : results.differences) {
        core::print(fmt::format("warning: ranks differ in {}\n", difference.key));
    }
    // A benchmark alone needs no name before its figures; in a suite, and with several ranks or threads, each case has
    // one.
    const bool alone = results.cases.size() == 1 && results.cases.front().name == results.cases.front().benchmark &&
                       results.command != "bench suite";
    for (const measure::CaseResult& result : results.cases) {
        print_figures(result, alone ? "" : result.name + "/");
    }
    const bool has_reference =
        std::any_of(results.cases.begin(), results.cases.end(),
                    [](const measure::CaseResult& found) { return found.benchmark == "reference"; });
    if (has_reference && !results.headline) {
        core::print(fmt::format("no moesaic_tokens_per_second: it needs {} repetitions at least\n",
                                measure::least_repetitions_of_headline));
    }
    if (const auto& headline = results.headline) {
        core::print(fmt::format(
            "{:.6g} tokens/s [{:.6g}, {:.6g}] with {}; {:.1f} % of what the machine's limits allow\n", headline->value,
            headline->low, headline->high, headline->case_name, headline->floor_percent.value_or(0)));
        core::print(
            fmt::format("FOM {}_floor = {:.6g} percent\n", headline->name, headline->floor_percent.value_or(0)));
        core::print(fmt::format("FOM {} = {:.6g} {}\n", headline->name, headline->value, headline->unit));
    }
}

void print_scaling(const std::vector<measure::CaseResult>& cases) {
    std::string last;
    for (const measure::Scaling& scaling : measure::scaling_of(cases)) {
        if (scaling.name != last) {
            const measure::CaseResult& first = *scaling.points.front().result;
            core::print(fmt::format("scaling of {} from {} x {} (ranks x threads)\n", scaling.name, first.ranks,
                                    first.threads));
            last = scaling.name;
        }
        for (const measure::Scaling::Point& point : std::span(scaling.points).subspan(1)) {
            core::print(fmt::format("  {:>4} x {:<4} {:<28} {:>8.2f} times as fast, efficiency {:5.1f} %\n",
                                    point.result->ranks, point.result->threads, scaling.figure, point.speed_up,
                                    point.efficiency_percent));
        }
    }
}

void print_grids(const std::vector<measure::CaseResult>& cases) {
    std::vector<const measure::CaseResult*> of_grids;
    for (const measure::CaseResult& found : cases) {
        if (found.find(measure::figures::step_predicted) != nullptr) {
            of_grids.push_back(&found);
        }
    }
    if (of_grids.size() < 2) {
        return;
    }
    const auto seconds_of = [](const measure::CaseResult* found, const char* figure) {
        return found->find(figure)->value;
    };
    const auto parameter_of = [](const measure::CaseResult* found, std::string_view key) {
        const auto parameter = std::find_if(found->parameters.begin(), found->parameters.end(),
                                            [&](const auto& each) { return each.first == key; });
        return parameter->second;
    };
    std::sort(of_grids.begin(), of_grids.end(), [&](const auto* a, const auto* b) {
        return seconds_of(a, measure::figures::step_seconds) < seconds_of(b, measure::figures::step_seconds);
    });
    core::print(fmt::format("{:<40} {:>11} {:>12} {:>10}\n", "grids, the fastest first", "measured, s", "predicted, s",
                            "of fastest"));
    const double fastest = seconds_of(of_grids.front(), measure::figures::step_seconds);
    for (const measure::CaseResult* found : of_grids) {
        const double seconds = seconds_of(found, measure::figures::step_seconds);
        core::print(fmt::format("  {:<38} {:>11.4f} {:>12.4f} {:>9.1f}%{}\n", parameter_of(found, "grid"), seconds,
                                seconds_of(found, measure::figures::step_predicted), 100 * fastest / seconds,
                                parameter_of(found, "grid.choice") == "auto" ? "  auto" : ""));
    }
}

}  // namespace moesaic::bench
