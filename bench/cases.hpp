// Cases of a benchmark run as the user asks for them.
#pragma once

#include "bench/benchmarks.hpp"
#include "kernels/compute_settings.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::bench {

/// A case as the user describes it; with several numbers of ranks or threads it is run with each.
struct CaseSpec {
    CaseSpec(const BenchmarkKind& kind_in, std::string name_in);

    /// Declares all its options; `prefix` goes before their keys.
    void declare(core::OptionSet& set, const std::string& prefix);
    /// Throws usage errors. `world_ranks` are there.
    void check(index_t world_ranks) const;
    /// With which it is run, in ascending order.
    [[nodiscard]] std::vector<index_t> rank_counts(index_t world_ranks) const;
    [[nodiscard]] std::vector<index_t> thread_counts(index_t of_all_cores) const;

    const BenchmarkKind* kind;
    std::string name;
    std::unique_ptr<BenchmarkSettings> settings;
    std::string ranks = "all";
    std::string threads;
    kernels::ComputeSettings compute;
    std::vector<std::pair<std::string, std::string>> parameters = {};  ///< options as used
};

/// Options of all cases together.
struct BenchOptions {
    Repetition repetition;
    std::string output;
    std::string google_output;
    std::string turns;  ///< pipes of Turns, or empty

    void declare(core::OptionSet& set);
    /// Throws a usage error now rather than after the measurements.
    void check_output() const;
};

}  // namespace moesaic::bench
