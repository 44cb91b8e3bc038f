#include "bench/console.hpp"

#include "core/error.hpp"
#include "core/standard_output.hpp"
#include "mpi/print.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace moesaic::bench {

void require_passed(std::span<const measure::Check> checks, std::string_view case_name) {
    for (const measure::Check& check : checks) {
        core::require(check.error <= check.bound, core::ExitCode::verification_failed,
                      "{} computes a wrong result ({}: {:.2e}, at most {:.2e} is rounding); please report it with the "
                      "output of moesaic doctor",
                      case_name, check.name, check.error, check.bound);
    }
}

void print_figures(const measure::CaseResult& result, const std::string& prefix) {
    for (const measure::Check& check : result.checks) {
        core::print(fmt::format("FOM {}{} = {:.6g} relative\n", prefix, check.name, check.error));
    }
    for (const measure::Figure& figure : result.figures) {
        core::print(fmt::format("FOM {}{} = {:.6g} {}\n", prefix, figure.name, figure.value, figure.unit));
    }
}

void Console::say(std::string_view text) const {
    mpi::print(world_, text);
}

void Console::add_check(const std::string& name, double error, double bound) {
    const double infinite = std::numeric_limits<double>::infinity();
    result_.checks.push_back({name, world_.max(std::isnan(error) ? infinite : error), bound});
}

void Console::add(const measure::FigureKey& key, const std::string& unit, measure::Better better,
                  const std::vector<double>& samples, std::optional<double> floor_percent,
                  std::optional<measure::Work> work) {
    const measure::Summary summary = measure::summarize(samples);
    result_.figures.push_back(
        {key.name, unit, better, summary.median, summary, floor_percent, samples, work, key.quantity, key.parameters});
}

void Console::add_limit(const measure::FigureKey& key, const std::string& unit, const std::vector<double>& samples) {
    result_.figures.push_back({.name = key.name,
                               .unit = unit,
                               .value = measure::best_of(samples),
                               .summary = measure::summarize(samples),
                               .samples = samples,
                               .quantity = key.quantity,
                               .parameters = key.parameters});
}

void Console::add(const measure::FigureKey& key, const std::string& unit, double value) {
    result_.figures.push_back(
        {.name = key.name, .unit = unit, .value = value, .quantity = key.quantity, .parameters = key.parameters});
}

}  // namespace moesaic::bench
