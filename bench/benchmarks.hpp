// The list of benchmarks: commands, decks and results go through it.
#pragma once

#include "bench/benchmark.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace moesaic::bench {

struct BenchmarkKind {
    std::string_view name;  ///< of its command, and of its sections in decks
    std::string_view summary;
    std::string_view threads;  ///< per rank, unless the user says so
    bool has_limits;           ///< limits of the machine are measured beside it
    bool alone;                ///< each rank does the whole work by itself
    bool takes_run;            ///< configuration files of training runs are read too
    index_t least_ranks;       ///< a deck leaves it out on fewer
    std::unique_ptr<BenchmarkSettings> (*make_settings)();
};

[[nodiscard]] const std::vector<BenchmarkKind>& benchmark_kinds();

/// Null if there is none of this name.
[[nodiscard]] const BenchmarkKind* find_benchmark(std::string_view name);

}  // namespace moesaic::bench
