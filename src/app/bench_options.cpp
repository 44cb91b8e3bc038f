#include "app/bench_options.hpp"

#include "bench/machine.hpp"
#include "core/error.hpp"
#include "io/files.hpp"

#include <filesystem>

namespace moesaic::app {

using core::ExitCode;

void BenchOptions::declare(core::OptionSet& set) {
    set.add("threads", threads, "threads per rank; auto: one per physical core of the rank",
            core::auto_or_within(1, train::most_threads));
    set.add("repeat", repeat, "measurements of each figure, after a warm-up", core::at_least(1));
    set.add("output", output, "write the figures and the environment to this JSON file");
}

void BenchOptions::check_output() const {
    if (output.empty()) {
        return;
    }
    const std::filesystem::path folder = std::filesystem::absolute(output).parent_path();
    core::require(std::filesystem::is_directory(folder), ExitCode::usage,
                  "can't write output = {} (there is no folder {}); create it, or choose another", output,
                  folder.string());
}

Runtime BenchOptions::make_runtime(const mpi::Communicator& world, train::ParallelOptions parallel) const {
    parallel.threads = threads;
    return {world, parallel, compute};
}

void BenchOptions::finish(const Runtime& runtime, const bench::Report& report, std::string_view benchmark) const {
    report.print_figures();
    const bench::Environment environment = {.cpu = bench::cpu_model(),
                                            .host = runtime.placement.host,
                                            .isa = std::string(runtime.kernels.gemm_name<core::bf16>()),
                                            .threads = runtime.placement.threads,
                                            .ranks = runtime.world.size()};
    runtime.world.agree([&] {
        if (runtime.world.is_root() && !output.empty()) {
            io::write_file_atomically(output, report.to_json(benchmark, environment).dump(2) + "\n");
        }
    });
}

void declare_activations(core::OptionSet& set, std::string& choice) {
    set.add("activations", choice,
            "retain gate and up between forward and backward, or recompute them from the layer's input",
            core::one_of({"retain", "recompute"}));
}

model::Activations activations_of(const std::string& choice) {
    return choice == "retain" ? model::Activations::retain : model::Activations::recompute;
}

}  // namespace moesaic::app
