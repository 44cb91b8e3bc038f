#include "train/grid_choice.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "mpi/print.hpp"
#include "ops/blocks.hpp"
#include "train/machine_probe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <tuple>

namespace moesaic::train {
namespace {

/// A step that takes less by usual rates is not worth some seconds of measuring.
constexpr double seconds_worth_measuring = 0.05;

std::string seconds_text(double seconds) {
    return seconds < 1 ? fmt::format("{} ms", core::three_digits(seconds * 1e3))
                       : fmt::format("{} s", core::three_digits(seconds));
}

double memory_of(const Ranks& ranks) {
    return static_cast<double>(ranks.world.min(ranks.memory_bytes()));
}

}  // namespace

std::vector<mpi::GridShape> grids_for(const GridQuestion& question, index_t ranks) {
    const model::Architecture& a = question.architecture;
    const std::vector<mpi::GridShape> all = grids_of(question.wanted, ranks);
    const index_t most_slices =
        question.wanted.tensor > 0 ? a.expert_intermediate : ops::blocks_of(a.expert_intermediate);
    std::vector<mpi::GridShape> grids;
    std::copy_if(all.begin(), all.end(), std::back_inserter(grids), [&](const mpi::GridShape& grid) {
        return grid.expert <= std::max(a.experts, index_t{1}) && grid.tensor <= std::max(most_slices, index_t{1});
    });
    core::require(!grids.empty(), core::ExitCode::usage,
                  "no grid of {} suits the model ({} experts of intermediate size {} are too few or too small for the "
                  "replicas that are wanted); leave parallel.data, parallel.expert and parallel.tensor at auto, or use "
                  "fewer ranks",
                  core::counted(ranks, "rank"), a.experts, a.expert_intermediate);
    return grids;
}

std::vector<GridOption> compare_grids(const GridQuestion& question, const std::vector<mpi::GridShape>& grids,
                                      const MachineRates& rates, double bytes) {
    const CostModel model(question.architecture, question.lora);
    std::vector<GridOption> options;
    for (const mpi::GridShape& grid : grids) {
        PassOptions passes = question.options;
        passes.wanted.grid = grid;
        GridOption& option = options.emplace_back();
        option.passes = passes.wanted;
        option.passes.micro_batch = choose_micro_batch(question.plan, passes, bytes);
        option.bytes = question.plan(option.passes).total();
        option.fits = option.bytes <= bytes;
        StepsToCome steps = question.steps;
        steps.grid = grid;
        steps.micro_batch = option.passes.micro_batch;
        option.cost = model.of(steps, rates);
    }
    const auto rank_of = [](const GridOption& option) {
        return std::tuple(!option.fits, option.fits ? option.cost.total() : option.bytes);
    };
    std::stable_sort(options.begin(), options.end(),
                     [&](const GridOption& a, const GridOption& b) { return rank_of(a) < rank_of(b); });
    return options;
}

StepsToCome steps_of(const Ranks& ranks) {
    return {.host_ranks = ranks.host_ranks, .threads = ranks.world.min(static_cast<index_t>(ranks.placement.threads))};
}

std::vector<GridOption> grid_options(const Ranks& ranks, const GridQuestion& question, kernels::Precision precision) {
    const std::vector<mpi::GridShape> grids = grids_for(question, ranks.world.size());
    const double bytes = memory_of(ranks);
    const MachineRates usual = usual_rates(bf16_level(ranks.kernels), question.steps.threads);
    std::vector<GridOption> options = compare_grids(question, grids, usual, bytes);
    if (precision != kernels::Precision::fp32 &&
        ranks.world.min(options.front().cost.total()) >= seconds_worth_measuring) {
        options = compare_grids(question, grids, rates_of(ranks), bytes);
    }
    // Ranks with other numbers of threads need other buffers: those of rank 0 decide for all.
    ranks.world.broadcast(std::span<GridOption>(options));
    return options;
}

mpi::GridShape choose_grid(const Ranks& ranks, const GridQuestion& question, kernels::Precision precision) {
    std::vector<mpi::GridShape> grids;
    ranks.world.agree([&] { grids = grids_for(question, ranks.world.size()); });
    if (grids.size() == 1) {
        return grids.front();
    }
    const std::vector<GridOption> options = grid_options(ranks, question, precision);
    const auto text_of = [](const GridOption& option) {
        return fmt::format("{}{}", seconds_text(option.cost.total()), option.fits ? "" : ", which does not fit");
    };
    mpi::print(ranks.world, fmt::format("grid: {} (predicted {} a step; next {}, {})\n", describe(options[0].grid()),
                                        text_of(options[0]), describe(options[1].grid()), text_of(options[1])));
    return options.front().grid();
}

std::string table_of(const std::vector<GridOption>& options) {
    std::string text = fmt::format("  {:<36} {:>9} {:>8} {:>6} {:>9} {:>10} {:>9}\n", "grid", "predicted", "experts",
                                   "other", "exchange", "reduction", "GiB");
    for (const GridOption& option : options) {
        const double total = option.cost.total();
        const auto share = [&](double seconds) { return 100 * seconds / total; };
        text += fmt::format("  {:<36} {:>9} {:>7.1f}% {:>5.1f}% {:>8.1f}% {:>9.1f}% {:>9.2f}{}\n",
                            describe(option.grid()), seconds_text(total), share(option.cost.experts),
                            share(option.cost.other), share(option.cost.exchange), share(option.cost.reduction),
                            option.bytes / core::gibibyte, option.fits ? "" : " (does not fit)");
    }
    return text;
}

}  // namespace moesaic::train
