// Multiplications of a training step, and the bytes of weights that it reads at least: what floors of steps are made
// of.
#pragma once

#include "measure/work.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"

namespace moesaic::bench {

using core::index_t;

/// Work of a rank in one pass over all ranks' `tokens`, forward or backward: as the weights are frozen, backward has
/// gradients of inputs only. Experts are chosen equally often. Weights are in the formats of the architecture.
struct StepWork {
    StepWork(const model::Architecture& architecture, const mpi::GridShape& grid, double tokens);

    measure::Work experts;      ///< a tensor group computes the choices of its experts, each rank a slice of them
    measure::Work projections;  ///< attention's, dense layers and shared experts
    measure::Work head;

    /// Seconds of a step at best: these three after each other, forward and backward.
    [[nodiscard]] double floor_seconds(const measure::MachineLimits& limits) const;
    /// Of a whole step.
    [[nodiscard]] measure::Work sum() const;
};

}  // namespace moesaic::bench
