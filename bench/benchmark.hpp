// What all benchmarks have in common: how they are set up, and the loop that measures them.
#pragma once

#include "bench/console.hpp"
#include "core/options.hpp"
#include "train/machine_probe.hpp"
#include "train/runtime.hpp"
#include "train/step_cost.hpp"

#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace moesaic::bench {

/// How the ranks of a case share the work.
struct CaseGrid {
    mpi::GridShape shape;
    std::optional<train::StepCost> predicted = {};  ///< if there was something to choose from
    bool is_choice = false;                         ///< the one that a run without further wishes has
};

/// A benchmark that is set up and has told its console what it verified. All ranks of its group call the functions.
class Benchmark {
public:
    virtual ~Benchmark() = default;
    /// Collective. Measures everything once; keeps the times if `record`, else it is a warm-up.
    virtual void repeat(bool record) = 0;
    /// Recorded samples of what is measured, to find out when they are enough.
    [[nodiscard]] virtual std::vector<std::span<const double>> samples() const = 0;
    /// Collective. Prints tables and adds the figures.
    virtual void report(Console& console, const measure::MachineLimits& limits) const = 0;
};

/// What the user may choose of a benchmark, and how it is set up.
class BenchmarkSettings {
public:
    virtual ~BenchmarkSettings() = default;
    /// Declares the options without a section, all with their defaults.
    virtual void declare(core::OptionSet&) {}
    /// Declares those with one.
    virtual void declare_sections(core::OptionSet&) {}
    /// Collective. How the ranks share the model, one case for each; where nothing else is given every rank computes by
    /// itself. The result of rank 0 counts.
    [[nodiscard]] virtual std::vector<CaseGrid> grids(const train::Ranks& ranks) const {
        return {{.shape = {.data = ranks.world.size()}}};
    }
    /// Throws usage errors that need no measurement to be found. `ranks` will take part.
    virtual void check(index_t /*ranks*/) const {}
    /// Collective. Adds what it verifies to the checks of the case. Throws with ExitCode::out_of_resources what does
    /// not fit. `runtime` outlives the result.
    [[nodiscard]] virtual std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const = 0;
};

/// How often a case is repeated.
struct Repetition {
    index_t rounds = 1;         ///< in which cases take turns
    index_t least = 7;          ///< repetitions, all rounds together
    double spread_percent = 2;  ///< more, until half the interval of every median is within this
    double seconds = 10;        ///< or until this has passed, all rounds together
};

/// Collective. One round of one case: a warm-up, then repetitions, with the limits of the machine (may be null)
/// measured beside each.
void measure_round(Console& console, Benchmark& benchmark, train::MachineProbe* machine, const Repetition& repetition);

/// Prints and adds the limits that were measured beside a case, the best of all samples: `amx_peak` (`isa_peak` where
/// the level is not AMX) and `dram_read`. Zeros for a case without them.
[[nodiscard]] measure::MachineLimits report_limits(Console& console);

}  // namespace moesaic::bench
