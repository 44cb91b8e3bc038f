// What the benchmark commands share: options, and how a result is written.
#pragma once

#include "app/runtime.hpp"
#include "bench/report.hpp"
#include "train/options.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace moesaic::app {

/// Options of every benchmark.
struct BenchOptions {
    std::string threads;
    std::int64_t repeat;
    std::string output;
    train::ComputeOptions compute;

    void declare(core::OptionSet& set);
    /// Last, because it has a section.
    void declare_compute(core::OptionSet& set) { compute.declare_isa(set); }

    /// Throws a usage error now rather than after the measurements.
    void check_output() const;
    /// Collective. Where nothing else is given every rank computes by itself.
    [[nodiscard]] Runtime make_runtime(const mpi::Communicator& world,
                                       train::ParallelOptions parallel = {.tensor = "1"}) const;
    /// Collective. The figures as lines, and as a file if the user wants one.
    void finish(const Runtime& runtime, const bench::Report& report, std::string_view benchmark) const;
};

void declare_activations(core::OptionSet& set, std::string& choice);
[[nodiscard]] model::Activations activations_of(const std::string& choice);

}  // namespace moesaic::app
