// moesaic doctor: what every rank finds out about its machine, and warnings about what costs speed.
#include "app/command.hpp"
#include "core/build_info.hpp"
#include "core/error.hpp"
#include "core/trace.hpp"
#include "core/units.hpp"
#include "host/placement_report.hpp"
#include "kernels/isa.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

namespace moesaic::app {
namespace {

using core::ExitCode;
using core::index_t;
using core::trace::now_ns;

std::string describe_isa() {
    std::string text;
    for (const kernels::IsaStatus& status : kernels::self_test()) {
        text += fmt::format("  {:<12} {}\n", kernels::name(status.isa), status.explanation);
    }
    return text;
}

/// Collective. One line per rank on rank 0, then one per host about its disk.
std::string describe_ranks(const train::Runtime& runtime, const host::Binding& binding) {
    std::string root_host = runtime.placement.host;
    runtime.world.broadcast(root_host);
    const auto lines = runtime.world.gather(host::map_line(runtime.placement, binding, root_host));
    std::error_code error;
    const auto space = std::filesystem::space(std::filesystem::current_path(), error);
    const auto disks =
        runtime.world.gather(runtime.placement.node_rank == 0
                                 ? fmt::format("disk of {}: {:.1f} GiB free in this folder\n", runtime.placement.host,
                                               error ? 0.0 : static_cast<double>(space.available) / core::gibibyte)
                                 : "");
    return host::map_title() + fmt::format("{}{}", fmt::join(lines, ""), fmt::join(disks, ""));
}

std::string warnings_of_rank(const train::Runtime& runtime, const host::Binding& binding) {
    std::vector<std::string> lines = host::warnings(runtime.placement, binding);
    const kernels::Isa best = kernels::gemm_kernels<core::bf16>().back().isa;
    if (!kernels::runs(best)) {
        lines.push_back(fmt::format("warning: rank {}: no {}; BF16 products use {}", runtime.placement.rank,
                                    kernels::name(best), runtime.kernels.gemm_name<core::bf16>()));
    }
    return fmt::format("{}{}", fmt::join(lines, "\n"), lines.empty() ? "" : "\n");
}

/// Collective. A warning of every host whose ranks leave cores idle, on rank 0; mpirun binds few ranks to a core each.
std::string idle_cores(const train::Runtime& runtime) {
    const mpi::Communicator host = runtime.world.split_by_node();
    const auto used = host.sum(static_cast<index_t>(runtime.placement.cores.size()));
    const auto processors = static_cast<index_t>(sysconf(_SC_NPROCESSORS_ONLN));
    constexpr index_t threads_per_core = 2;  // of CPUs with simultaneous multithreading
    const bool warn = host.is_root() && !runtime.placement.emulated && !runtime.placement.cores_shared &&
                      used * threads_per_core < processors;
    const auto warnings = runtime.world.gather(
        warn ? fmt::format(
                   "warning: the ranks on {} use {} cores of {} processors; start them with mpirun --map-by numa "
                   "--bind-to numa\n",
                   runtime.placement.host, used, processors)
             : "");
    return fmt::format("{}", fmt::join(warnings, ""));
}

/// Collective. Time of one all-gather of `bytes` per rank, in seconds; median of several.
double time_all_gather(const mpi::Communicator& world, index_t bytes) {
    const index_t elements = std::max(bytes / static_cast<index_t>(sizeof(float)), index_t{1});
    core::Matrix<float> mine(elements, 1);
    core::Matrix<float> all(elements * world.size(), 1);
    mine.fill(1);
    const std::vector<index_t> counts(static_cast<std::size_t>(world.size()), elements);
    std::vector<double> seconds;
    for (int repetition = 0; repetition < 11; ++repetition) {
        world.barrier();
        const std::int64_t begin = now_ns();
        world.all_gather_rows<float>(mine, all, counts);
        seconds.push_back(world.max(static_cast<double>(now_ns() - begin) * 1e-9));
    }
    std::nth_element(seconds.begin(), seconds.begin() + 5, seconds.end());
    return seconds[5];
}

std::string describe_exchange(const mpi::Communicator& world) {
    if (world.size() == 1) {
        return "  one rank: nothing to exchange\n";
    }
    constexpr index_t small = 8;
    constexpr index_t large = index_t{8} << 20;
    const double latency = time_all_gather(world, small);
    const double seconds = time_all_gather(world, large);
    const double received = static_cast<double>(large * (world.size() - 1));
    return fmt::format("  all-gather of 8 B per rank: {:.1f} us; of 8 MiB per rank: {:.2f} GB/s received per rank\n",
                       latency * 1e6, received / seconds * 1e-9);
}

}  // namespace

ExitCode run_doctor(const mpi::Communicator& world, Arguments arguments) {
    mpi::PlaceSettings place;
    mpi::GridShape grid;
    kernels::ComputeSettings compute;
    core::OptionSet options;
    place.declare_topology(options);
    grid.declare(options);
    place.declare(options);
    compute.declare(options);
    if (asks_for_help(arguments)) {
        print_help(world, "doctor", options.help());
        return ExitCode::success;
    }
    parse(world, options, arguments, false);
    const train::Runtime runtime(world, place, grid, compute);
    const host::Binding binding = {runtime.threads_bound, host::find_first_touched_nodes(runtime.placement)};
    const std::string ranks = describe_ranks(runtime, binding);
    const auto warnings = world.gather(warnings_of_rank(runtime, binding));
    const std::string exchange = describe_exchange(world);
    const std::string idle = idle_cores(runtime);
    const std::string transport = mpi::Environment::transport();
    print(world, fmt::format("moesaic {} ({}), {}\n\nISA levels of rank 0 (self-test)\n{}\nRanks: {} = "
                             "{}\n{}\nExchange, {}{}\n{}\n{}{}",
                             core::build_info::version, core::build_info::git_revision, core::build_info::compiler,
                             describe_isa(), world.size(), describe(runtime.grid.shape()), ranks,
                             mpi::Environment::library_version(), transport.empty() ? "" : ": " + transport, exchange,
                             fmt::join(warnings, ""), idle));
    return ExitCode::success;
}

}  // namespace moesaic::app
