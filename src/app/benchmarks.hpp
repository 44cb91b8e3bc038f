// The list of benchmarks: commands, decks and results go through it.
#pragma once

#include "app/runtime.hpp"
#include "bench/benchmark.hpp"
#include "core/options.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace moesaic::app {

/// The options of a benchmark and how it is set up.
class BenchmarkOptions {
public:
    virtual ~BenchmarkOptions() = default;
    /// Declares the options without a section, all with their defaults.
    virtual void declare(core::OptionSet&) {}
    /// Declares those with one.
    virtual void declare_sections(core::OptionSet&) {}
    /// How ranks share the model; where nothing else is given every rank computes by itself.
    [[nodiscard]] virtual mpi::GridShape grid() const { return {.tensor = 1}; }
    /// Throws usage errors that need no measurement to be found. `ranks` will take part.
    virtual void check(index_t /*ranks*/) const {}
    /// Collective. `runtime` outlives the result.
    [[nodiscard]] virtual std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                                    bench::Console& console) const = 0;
};

struct BenchmarkKind {
    std::string_view name;  ///< of its command, and of its sections in decks
    std::string_view summary;
    std::string_view threads;  ///< per rank, unless the user says so
    bool has_limits;           ///< limits of the machine are measured beside it
    bool alone;                ///< each rank does the whole work by itself
    index_t least_ranks;       ///< a deck leaves it out on fewer
    std::unique_ptr<BenchmarkOptions> (*make)();
};

[[nodiscard]] const std::vector<BenchmarkKind>& benchmark_kinds();

void declare_activations(core::OptionSet& set, ops::Activations& activations);

/// Collective. What limits of a rank's memory are measured with.
[[nodiscard]] index_t bytes_beyond_caches(const mpi::Communicator& world, const host::Placement& placement);

[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_machine_options();
[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_kernel_options();
[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_layer_options();
[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_step_options();
[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_reference_options();
[[nodiscard]] std::unique_ptr<BenchmarkOptions> make_collective_options();

}  // namespace moesaic::app
