// Which grid of ranks a run has, if the user does not say it.
#pragma once

#include "kernels/compute_settings.hpp"
#include "train/pass_size.hpp"
#include "train/step_cost.hpp"

#include <string>
#include <vector>

namespace moesaic::train {

/// A run that is to get a grid.
struct GridQuestion {
    mpi::GridSettings wanted;
    const model::Architecture& architecture;  ///< with the formats that weights are held in
    model::LoraSettings lora;
    StepsToCome steps;         ///< but for grid and micro-batch
    const PlanOfPasses& plan;  ///< of the memory
    PassOptions options;       ///< but for the grid
};

/// A grid that a run could have.
struct GridOption {
    PassChoice passes;  ///< with the grid
    StepCost cost;
    double bytes = 0;  ///< of memory of the rank that needs most
    bool fits = true;

    [[nodiscard]] const mpi::GridShape& grid() const noexcept { return passes.grid; }
};

/// Grids of so many ranks that the model can be spread over: an expert at least for every group, and a block of each
/// expert for every rank of a group unless the size of groups is wanted. Throws a usage error if there are none.
[[nodiscard]] std::vector<mpi::GridShape> grids_for(const GridQuestion& question, index_t ranks);

/// The grids as options. Those in which a rank needs no more than `bytes` come first, the fastest ones before others;
/// then those that do not fit, by what they need.
[[nodiscard]] std::vector<GridOption> compare_grids(const GridQuestion& question,
                                                    const std::vector<mpi::GridShape>& grids, const MachineRates& rates,
                                                    double bytes);

/// Steps of the ranks that run, but for what model and data decide. Collective.
[[nodiscard]] StepsToCome steps_of(const Ranks& ranks);

/// Collective. All grids of the ranks that run as options, the same on all ranks. Only steps that take their time are
/// worth measuring the machine for: others, and FP32, get usual rates.
[[nodiscard]] std::vector<GridOption> grid_options(const Ranks& ranks, const GridQuestion& question,
                                                   kernels::Precision precision);

/// Collective. The first of these options; says so if there are several grids. A single one is taken without comparing
/// anything.
[[nodiscard]] mpi::GridShape choose_grid(const Ranks& ranks, const GridQuestion& question,
                                         kernels::Precision precision);

/// A row for each option: its predicted time, what it is for, and the memory of a rank.
[[nodiscard]] std::string table_of(const std::vector<GridOption>& options);

}  // namespace moesaic::train
