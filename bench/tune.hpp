// Tries how a model trains fastest on the ranks that run: grids first, then what else can be chosen on the best of
// them.
#pragma once

#include "bench/step_plans.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::bench {

/// What is chosen for training.
struct TuneChoice {
    mpi::GridShape grid;
    index_t chunks = 0;       ///< 0: automatic
    index_t micro_batch = 0;  ///< 0: all of a step
    ops::Activations activations = ops::Activations::retain;

    friend bool operator==(const TuneChoice&, const TuneChoice&) = default;
};

struct TuneLimits {
    index_t most_tried = 8;  ///< choices that are measured
    index_t steps = 3;       ///< of each, after one to warm up
    index_t layers = 0;      ///< that are measured; 0: up to the second one with experts
};

/// A choice that was tried.
struct Tried {
    TuneChoice choice;
    double predicted = 0;                ///< seconds of a step of the whole model
    std::optional<double> seconds = {};  ///< measured, of the layers that are; nothing if memory was not enough
};

/// Collective. Grids that fit the memory, the best ones by the model of costs; then, on the fastest of them, other
/// chunks, micro-batches and activations. The fastest choice comes first, choices that ran out of memory last.
/// `show` is called on all ranks before each measurement.
[[nodiscard]] std::vector<Tried> tune(const train::Ranks& ranks, const mpi::GridSettings& wanted,
                                      const StepWorkload& workload, const TuneLimits& limits,
                                      const std::function<void(const TuneChoice&)>& show);

/// "data 1 x expert 4 x tensor 1, chunks auto, micro-batch 2, retain".
[[nodiscard]] std::string describe(const TuneChoice& choice);

}  // namespace moesaic::bench
