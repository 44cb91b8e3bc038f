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

std::string percent_of_limit(double percent) {
    return fmt::format("{:.1f}%{}", percent, percent > 100 ? "!" : "");
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
    result_.figures.push_back({key.name,
                               unit,
                               better,
                               summary.median,
                               summary,
                               floor_percent,
                               samples,
                               {},
                               work,
                               key.quantity,
                               key.parameters});
}

std::vector<std::vector<double>> Console::gather(const std::vector<double>& mine) const {
    const auto ranks = static_cast<std::size_t>(world_.size());
    const std::vector<index_t> counts(ranks, static_cast<index_t>(mine.size()));
    std::vector<double> all(world_.is_root() ? ranks * mine.size() : 0);
    if (ranks > 1) {
        world_.gather_blocks<double>(mine, all, counts);
    }
    std::vector<std::vector<double>> of_ranks;
    for (std::size_t rank = 0; world_.is_root() && ranks > 1 && rank < ranks; ++rank) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(rank * mine.size());
        of_ranks.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(mine.size()));
    }
    return of_ranks;
}

void Console::add(const measure::FigureKey& key, const std::string& unit, measure::Better better,
                  const Samples& samples, std::optional<double> floor_percent, std::optional<measure::Work> work) {
    add(key, unit, better, samples.slowest, floor_percent, work);
    result_.figures.back().rank_samples = gather(samples.mine);
}

void Console::add_limit(const measure::FigureKey& key, const std::string& unit, const Samples& samples) {
    result_.figures.push_back({.name = key.name,
                               .unit = unit,
                               .value = measure::best_of(samples.slowest),
                               .summary = measure::summarize(samples.slowest),
                               .samples = samples.slowest,
                               .rank_samples = gather(samples.mine),
                               .quantity = key.quantity,
                               .parameters = key.parameters});
}

void Console::add(const measure::FigureKey& key, const std::string& unit, double value) {
    result_.figures.push_back(
        {.name = key.name, .unit = unit, .value = value, .quantity = key.quantity, .parameters = key.parameters});
}

}  // namespace moesaic::bench
