// Multiplications of training steps, and the bytes of weights that they read: what floors of benchmarks, the time that
// plans say, and the choice of a grid are made of.
#pragma once

#include "core/work.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"

namespace moesaic::train {

using core::index_t;

/// What one rank gets to do in a pass, forward or backward.
struct RankLoad {
    double tokens = 0;   ///< its own
    double rows = 0;     ///< of a layer with experts: rows that its experts compute, a token once per expert
    double experts = 0;  ///< of its experts those that get rows, whose weights are read
    double slice = 1;    ///< its part of each of them
};

/// That of every rank if experts are chosen equally often, and all is spread evenly over the ranks. `tokens`: of all.
[[nodiscard]] RankLoad even_load(const model::Architecture& architecture, const mpi::GridShape& grid, double tokens);

/// Part of the tokens that go to a tensor group with `held` of `experts` experts, if each goes to `choices` different
/// ones and all combinations are equally frequent.
[[nodiscard]] double share_of_tokens(double experts, double held, double choices);

/// Work of a rank in one pass, forward or backward: as the weights are frozen, backward has gradients of inputs only.
struct StepWork {
    core::Work experts;      ///< a tensor group computes the choices of its experts, each rank a slice of them
    core::Work projections;  ///< attention's, dense layers and shared experts
    core::Work head;

    /// Seconds of a step at best: these three after each other, forward and backward.
    [[nodiscard]] double floor_seconds(const core::MachineLimits& limits) const;
    /// Of a whole step.
    [[nodiscard]] core::Work sum() const;
};

/// What tokens cost in a model; walks its layers only once. Weights are in the formats of the architecture.
class ModelWork {
public:
    explicit ModelWork(const model::Architecture& architecture);

    [[nodiscard]] StepWork of(const RankLoad& load) const;
    /// Multiplications and additions of the scores of attention and of the sums of values, in all layers, forward and
    /// backward, of one sequence: a token sees half of it on average.
    [[nodiscard]] double score_operations(double length) const;

    /// Operations that a step takes for a sequence, with what a target costs in the head, and as many more for the
    /// scores of attention as they take longer than others; of routed experts only if they are `with_experts`.
    [[nodiscard]] double operations_of_sequence(double length, double targets, bool with_experts) const;

    /// Backward has five products where forward has two.
    static constexpr double backward_of_scores = 5.0 / 2;

private:
    model::Architecture architecture_;
    core::Work routed_row_;   ///< of one routed row in all layers: operations
    core::Work expert_;       ///< of one expert in all layers: bytes
    core::Work projections_;  ///< operations of a token, and bytes
    core::Work head_;
};

/// The work of `even_load`.
[[nodiscard]] StepWork even_work(const model::Architecture& architecture, const mpi::GridShape& grid, double tokens);

}  // namespace moesaic::train
