// moesaic doctor: what every rank finds out about its machine, and warnings about what costs speed.
#include "app/command.hpp"
#include "core/build_info.hpp"
#include "core/error.hpp"
#include "core/trace.hpp"
#include "core/units.hpp"
#include "host/fabrics.hpp"
#include "host/placement_report.hpp"
#include "kernels/isa.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
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
std::string describe_ranks(const train::Ranks& ranks, const host::Binding& binding) {
    std::string root_host = ranks.placement.host;
    ranks.world.broadcast(root_host);
    const auto lines = ranks.world.gather(host::map_line(ranks.placement, binding, root_host));
    std::error_code error;
    const auto space = std::filesystem::space(std::filesystem::current_path(), error);
    const auto disks =
        ranks.world.gather(ranks.placement.node_rank == 0
                               ? fmt::format("disk of {}: {:.1f} GiB free in this folder\n", ranks.placement.host,
                                             error ? 0.0 : static_cast<double>(space.available) / core::gibibyte)
                               : "");
    return host::map_title() + fmt::format("{}{}", fmt::join(lines, ""), fmt::join(disks, ""));
}

std::vector<host::Remark> remarks_of_rank(const train::Ranks& ranks, const host::Binding& binding) {
    std::vector<host::Remark> remarks = host::remarks(ranks.placement, binding);
    const kernels::Isa best = kernels::gemm_kernels<core::bf16>().back().isa;
    if (!kernels::runs(best)) {
        remarks.push_back({host::Severity::note, fmt::format("no {}; BF16 products use {}", kernels::name(best),
                                                             ranks.kernels.gemm_name<core::bf16>())});
    }
    return remarks;
}

/// Collective. That the ranks of this host leave cores idle, on the first of them; mpirun binds few ranks to a core
/// each.
void remark_idle_cores(const train::Ranks& ranks, std::vector<host::Remark>& remarks) {
    const host::Placement& p = ranks.placement;
    const mpi::Communicator host = ranks.world.split_by_node();
    const auto used = host.sum(static_cast<index_t>(p.cores.size()));
    const auto processors = static_cast<index_t>(sysconf(_SC_NPROCESSORS_ONLN));
    constexpr index_t threads_per_core = 2;  // of CPUs with simultaneous multithreading
    if (host.is_root() && !p.emulated && !p.cores_shared && used * threads_per_core < processors) {
        remarks.push_back(
            {host::Severity::warning, "the ranks of its host leave cores idle",
             fmt::format("{} of {} processors of {} are used", used, processors, p.host),
             fmt::format("start one rank per NUMA node, {} on {}, or have them bound to more (mpirun --bind-to none)",
                         p.host_numa_nodes, p.host)});
    }
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

/// Collective. What the exchange takes; says on rank 0 if it is slower than any network.
std::string describe_exchange(const mpi::Communicator& world, std::vector<host::Remark>& remarks) {
    if (world.size() == 1) {
        return "  one rank: nothing to exchange\n";
    }
    constexpr index_t small = 8;
    constexpr index_t large = index_t{8} << 20;
    constexpr double slow = 1e-3;  // seconds; a thousand ranks need some ten messages after each other
    const double latency = time_all_gather(world, small);
    const double seconds = time_all_gather(world, large);
    const double received = static_cast<double>(large * (world.size() - 1));
    if (world.is_root() && latency > slow) {
        remarks.push_back({host::Severity::warning, "messages take very long",
                           fmt::format("an all-gather of 8 B {:.1f} ms", latency * 1e3),
                           "look for cores that several ranks share, and for the network that MPI has chosen (mpirun "
                           "--mca btl_tcp_if_include)"});
    }
    return fmt::format("  all-gather of 8 B per rank: {:.1f} us; of 8 MiB per rank: {:.2f} GB/s received per rank\n",
                       latency * 1e6, received / seconds * 1e-9);
}

/// Collective. On the first rank of a host whose messages to others go over TCP beside a faster network.
void remark_transport(const train::Ranks& ranks, const std::string& transport, std::vector<host::Remark>& remarks) {
    const index_t hosts = ranks.world.sum(static_cast<index_t>(ranks.placement.node_rank == 0 ? 1 : 0));
    const std::vector<std::string> fabrics = host::active_fabrics();
    if (hosts > 1 && ranks.placement.node_rank == 0 && !fabrics.empty() && transport.find("tcp") != std::string::npos) {
        remarks.push_back({host::Severity::warning, "messages between hosts go over TCP beside a faster network",
                           fmt::format("{}: {}", ranks.placement.host, fmt::join(fabrics, ", ")),
                           "use an MPI library that was built with UCX or libfabric (mpirun --mca pml ucx)"});
    }
}

std::string usable_levels() {
    std::vector<std::string_view> levels;
    for (const kernels::IsaStatus& status : kernels::self_test()) {
        if (status.usable) {
            levels.push_back(kernels::name(status.isa));
        }
    }
    return fmt::format("{}", fmt::join(levels, ", "));
}

/// Collective. Says on each rank in what it differs from rank 0; the fastest ranks wait for the slowest one.
void remark_differences(const train::Ranks& ranks, std::vector<host::Remark>& remarks) {
    constexpr double tolerated = 0.1;  // part of the memory, of which the firmware keeps more or less
    const auto cores = static_cast<double>(ranks.placement.cores.size());
    const double memory = static_cast<double>(ranks.placement.memory_bytes) / core::gibibyte;
    const std::string levels = usable_levels();
    std::array<double, 2> sizes_of_root = {cores, memory};
    std::string levels_of_root = levels;
    ranks.world.broadcast(std::span<double>(sizes_of_root));
    ranks.world.broadcast(levels_of_root);
    const auto compare = [&](bool differs, const char* problem, const std::string& detail) {
        if (differs) {
            remarks.push_back({host::Severity::warning, problem, detail, "run on hosts of one kind"});
        }
    };
    // Ranks of a host share its cores as evenly as their number allows.
    compare(std::abs(cores - sizes_of_root[0]) > 1, "it has another number of cores than rank 0",
            fmt::format("{:.0f}, not {:.0f}", cores, sizes_of_root[0]));
    compare(std::abs(memory - sizes_of_root[1]) > tolerated * sizes_of_root[1],
            "its host has another memory than rank 0's",
            fmt::format("{:.0f} GiB, not {:.0f}", memory, sizes_of_root[1]));
    compare(levels != levels_of_root, "it has other instruction sets than rank 0",
            fmt::format("{}, not {}", levels, levels_of_root));
}

}  // namespace

ExitCode run_doctor(const mpi::Communicator& world, Arguments arguments) {
    mpi::PlaceSettings place;
    kernels::ComputeSettings compute;
    core::OptionSet options;
    place.declare_topology(options);
    compute.declare(options);
    place.declare(options);
    if (asks_for_help(arguments)) {
        print_help(world, "doctor", options);
        return ExitCode::success;
    }
    parse(world, options, arguments, false);
    const train::Ranks ranks(world, place, compute, false);
    const host::Binding binding = {.threads_bound = ranks.threads_bound,
                                   .foreign_load = ranks.foreign_load,
                                   .memory_nodes = host::find_first_touched_nodes(ranks.placement)};
    const std::string lines_of_ranks = describe_ranks(ranks, binding);
    std::vector<host::Remark> remarks = remarks_of_rank(ranks, binding);
    remark_idle_cores(ranks, remarks);
    remark_differences(ranks, remarks);
    const std::string transport = mpi::Environment::transport();
    remark_transport(ranks, transport, remarks);
    const std::string exchange = describe_exchange(world, remarks);
    std::string lines;
    for (const host::RemarkLine& line : mpi::gather_remarks(world, remarks)) {
        lines += line.with_severity() + "\n";
    }
    print(world,
          fmt::format(
              "moesaic {} ({}), {}\n\nISA levels of rank 0 (self-test)\n{}\nRanks: {}\n{}\nExchange, {}{}\n{}\n{}",
              core::build_info::version, core::build_info::git_revision, core::build_info::compiler, describe_isa(),
              world.size(), lines_of_ranks, mpi::Environment::library_version(),
              transport.empty() ? "" : ": " + transport, exchange, lines));
    return ExitCode::success;
}

}  // namespace moesaic::app
