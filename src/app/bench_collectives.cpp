// moesaic bench collectives
#include "app/bench_options.hpp"
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "bench/collectives.hpp"
#include "bench/shapes.hpp"
#include "core/error.hpp"

#include <algorithm>

namespace moesaic::app {

using core::ExitCode;

ExitCode run_bench_collectives(const mpi::Communicator& world, Arguments arguments) {
    std::string bytes = "8,1024,65536,1048576,8388608";
    BenchOptions common = {.threads = "1", .repeat = 15, .output = {}, .compute = {}};
    core::OptionSet options;
    options.add("bytes", bytes, "message sizes, separated by commas");
    common.declare(options);
    if (!parse_options_only(world, "bench collectives", options, arguments)) {
        return ExitCode::success;
    }
    bench::CollectiveSettings settings;
    settings.repeat = common.repeat;
    world.agree([&] {
        common.check_output();
        settings.bytes = bench::parse_sizes("bytes", bytes);
        const bool whole_floats = std::all_of(settings.bytes.begin(), settings.bytes.end(), [](bench::index_t size) {
            return size % static_cast<bench::index_t>(sizeof(float)) == 0;
        });
        core::require(whole_floats, ExitCode::usage,
                      "bytes = {} has a size that is no multiple of 4 (what is sent is FP32); choose others", bytes);
        core::require(world.size() > 1, ExitCode::usage,
                      "one rank has nobody to exchange with (the job has a single rank); start several with mpirun or "
                      "srun");
    });
    const Runtime runtime = common.make_runtime(world);
    bench::Report report(world);
    bench::run_collective_benchmark(report, settings);
    common.finish(runtime, report, "collectives");
    return ExitCode::success;
}

}  // namespace moesaic::app
