// What all benchmarks have in common, and the loop that measures them.
#pragma once

#include "bench/console.hpp"

#include <span>
#include <vector>

namespace moesaic::bench {

class MachineProbe;

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

/// How often a case is repeated.
struct Repetition {
    index_t rounds = 1;         ///< in which cases take turns
    index_t least = 7;          ///< repetitions, all rounds together
    double spread_percent = 2;  ///< more, until half the interval of every median is within this
    double seconds = 10;        ///< or until this has passed, all rounds together
};

/// Collective. One round of one case: a warm-up, then repetitions, with the limits of the machine (may be null)
/// measured beside each.
void measure_round(Console& console, Benchmark& benchmark, MachineProbe* machine, const Repetition& repetition);

/// Prints and adds the limits that were measured beside a case, the best of all samples: `amx_peak` (`isa_peak` where
/// the level is not AMX) and `dram_read`. Zeros for a case without them.
[[nodiscard]] measure::MachineLimits report_limits(Console& console);

}  // namespace moesaic::bench
