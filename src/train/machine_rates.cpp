#include "train/machine_rates.hpp"

#include "core/error.hpp"
#include "core/slice.hpp"
#include "host/system_files.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "mpi/timing.hpp"
#include "train/machine_probe.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

/// Part of the cores that others may use while rates are measured that are to be kept.
constexpr double most_foreign_load = 0.2;

/// What is kept of rates, in this order. Anything outside of the bounds was not measured.
struct Kept {
    const char* key;
    double least;
    double most;
};
constexpr std::array kept = {
    Kept{"operations_per_second", 1e6, 1e18},           Kept{"bytes_per_second_from_memory", 1e6, 1e15},
    Kept{"gathered_per_second_within_host", 1e4, 1e15}, Kept{"summed_per_second_within_host", 1e4, 1e15},
    Kept{"seconds_of_call_within_host", 1e-9, 10},      Kept{"gathered_per_second_between_hosts", 1e4, 1e15},
    Kept{"summed_per_second_between_hosts", 1e4, 1e15}, Kept{"seconds_of_call_between_hosts", 1e-9, 10}};
using Numbers = std::array<double, kept.size()>;

Numbers numbers_of(const MachineRates& rates) {
    return {rates.limits.peak_flops, rates.limits.bytes_per_second, rates.host.gather, rates.host.sum,
            rates.host.latency,      rates.network.gather,          rates.network.sum, rates.network.latency};
}

MachineRates rates_from(const Numbers& n, index_t threads) {
    return {.limits = {n[0], n[1]}, .threads = threads, .host = {n[2], n[3], n[4]}, .network = {n[5], n[6], n[7]}};
}

/// Collective over `world`, whose ranks are in groups, at once in all groups; the slowest one counts. Nothing if no
/// group has two ranks.
std::optional<LinkRates> measure_link(const mpi::Communicator& world, const mpi::Communicator& group) {
    constexpr index_t cols = 2048;
    constexpr index_t rows_to_gather = 256;  // of a rank: 1 MiB
    constexpr index_t rows_to_sum = 4096;    // of all: 32 MiB, as gradients of a layer are beyond all caches
    constexpr int repetitions = 6;
    constexpr int repetitions_of_sums = 2;
    constexpr int calls = 4;  // to find out how long one takes
    const auto ranks = static_cast<index_t>(group.size());
    const index_t largest = world.max(ranks);
    if (largest == 1) {
        return std::nullopt;
    }
    core::Matrix<core::bf16> mine(rows_to_gather, cols);
    core::Matrix<core::bf16> all(rows_to_gather * ranks, cols);
    const auto gather = [&](index_t rows) {
        const std::vector<index_t> counts(static_cast<std::size_t>(ranks), rows);
        group.all_gather_rows<core::bf16>(mine.view().rows(0, rows), all.view().rows(0, rows * ranks), counts);
    };
    core::Matrix<float> summands(rows_to_sum, cols);
    summands.fill(1);
    std::vector<index_t> shares;
    for (index_t rank = 0; rank < ranks; ++rank) {
        shares.push_back(core::slice_of(rows_to_sum, rank, ranks).extent);
    }
    core::Matrix<float> sums(shares[static_cast<std::size_t>(group.rank())], cols);
    LinkRates link = {.latency = std::numeric_limits<double>::infinity()};
    for (int i = 0; i < repetitions; ++i) {
        const auto others = static_cast<double>(largest - 1);
        const double gathered = others * static_cast<double>(rows_to_gather * cols) * sizeof(core::bf16);
        const double summed =
            others / static_cast<double>(largest) * static_cast<double>(rows_to_sum * cols) * sizeof(float);
        link.gather = std::max(link.gather, gathered / mpi::seconds_of(world, [&] { gather(rows_to_gather); }).slowest);
        if (i < repetitions_of_sums) {
            const auto reduce = [&] { group.reduce_scatter_rows<float>(summands, sums, shares); };
            link.sum = std::max(link.sum, summed / mpi::seconds_of(world, reduce).slowest);
        }
        const mpi::Sample seconds = mpi::seconds_of(world, [&] {
            for (int call = 0; call < calls; ++call) {
                gather(1);
            }
        });
        link.latency = std::min(link.latency, seconds.slowest / calls);
    }
    return link;
}

/// Collective. What rates depend on, the same on all ranks: kinds of processors, ranks, hosts, threads, level.
std::string key_of(const Ranks& ranks) {
    const host::Placement& placement = ranks.placement;
    const int unit = placement.processing_units.empty() ? 0 : placement.processing_units.front();
    const std::vector<std::string> models =
        ranks.world.all_gather(host::value_of_processor("/proc/cpuinfo", unit, "model name").value_or("unknown"));
    const auto all_alike = [&](index_t value) {
        return fmt::format("{}-{}", ranks.world.min(value), ranks.world.max(value));
    };
    return fmt::format("{}; ranks {} on {} hosts, {} of a host{}; threads {}; cores {}; {}",
                       fmt::join(std::set<std::string>(models.begin(), models.end()), ", "), ranks.world.size(),
                       ranks.world.sum(static_cast<index_t>(placement.node_rank == 0 ? 1 : 0)),
                       all_alike(placement.node_ranks), ranks.world.has_shared_stage() ? " with shared memory" : "",
                       all_alike(placement.threads), all_alike(static_cast<index_t>(placement.cores.size())),
                       kernels::name(bf16_level(ranks.kernels)));
}

}  // namespace

Efficiency usual_efficiency(kernels::Isa level) {
    return level == kernels::Isa::amx ? Efficiency{.experts = 0.4, .projections = 0.2, .scores = 0.1}
                                      : Efficiency{.experts = 0.6, .projections = 0.5, .scores = 0.3};
}

MachineRates MachineRates::with_threads(index_t other_threads) const {
    MachineRates other = *this;
    const double share = static_cast<double>(other_threads) / static_cast<double>(threads);
    other.limits = {share * limits.peak_flops, share * limits.bytes_per_second};
    other.threads = other_threads;
    return other;
}

MachineRates usual_rates(kernels::Isa level, index_t threads) {
    const auto count = static_cast<double>(threads);
    const double flops_of_thread = level == kernels::Isa::amx ? 1.5e12 : 1e11;
    return {.limits = {flops_of_thread * count, 1e10 * count},
            .threads = threads,
            .host = {.gather = 2e9, .sum = 2e9, .latency = 1e-5},
            .network = {.gather = 5e8, .sum = 2e8, .latency = 4e-5},
            .efficiency = usual_efficiency(level),
            .source = "usual rates"};
}

MachineRates measure_rates(const Ranks& ranks) {
    constexpr int repetitions = 8;
    const mpi::Communicator& world = ranks.world;
    const kernels::Isa level = bf16_level(ranks.kernels);
    MachineRates rates = usual_rates(level, ranks.placement.threads);
    rates.source = "measured now";
    MachineProbe probe(world, kernels::peak_loop(level), bytes_beyond_caches(ranks));
    rates.limits = {};
    for (int i = 0; i < repetitions; ++i) {
        const MachineProbe::Limits limits = probe.measure();
        rates.limits.peak_flops = std::max(rates.limits.peak_flops, 1e9 * limits.gflops.slowest);
        rates.limits.bytes_per_second =
            std::max(rates.limits.bytes_per_second, 1e9 * limits.gigabytes_per_second.slowest);
    }
    rates.host = measure_link(world, ranks.host_group).value_or(rates.host);
    rates.network = measure_link(world, world.split(ranks.placement.node_rank, world.rank())).value_or(rates.network);
    return rates;
}

MachineRates rates_of(const Ranks& ranks) {
    const mpi::Communicator& world = ranks.world;
    const std::string key = key_of(ranks);
    const RatesCache cache = RatesCache::of_user();
    std::optional<MachineRates> known;
    Numbers numbers{};
    if (world.is_root()) {
        known = cache.read(key);
        numbers = known ? numbers_of(*known) : numbers;
    }
    world.broadcast(std::span<double>(numbers));
    if (numbers.front() == 0) {
        const MachineRates measured = measure_rates(ranks);
        const auto cores = static_cast<double>(ranks.placement.cores.size());
        const bool is_quiet = world.max(ranks.foreign_load / cores) < most_foreign_load;
        if (world.is_root() && is_quiet) {
            cache.write(key, measured);
        }
        return measured;
    }
    MachineRates rates = rates_from(numbers, ranks.placement.threads);
    rates.efficiency = usual_efficiency(bf16_level(ranks.kernels));
    rates.source = "measured earlier";
    return rates;
}

RatesCache RatesCache::of_user() {
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);
        return std::filesystem::path(value == nullptr ? "" : value);
    };
    for (const std::filesystem::path& base : {variable("XDG_CACHE_HOME"), variable("HOME") / ".cache"}) {
        if (base.is_absolute()) {  // as the XDG Base Directory Specification wants it
            return RatesCache(base / "moesaic");
        }
    }
    return RatesCache({});
}

std::filesystem::path RatesCache::file_of(const std::string& key) const {
    return folder_ / fmt::format("rates-{:016x}.json", XXH3_64bits(key.data(), key.size()));
}

std::optional<MachineRates> RatesCache::read(const std::string& key) const {
    if (folder_.empty()) {
        return std::nullopt;
    }
    const std::filesystem::path file = file_of(key);
    try {
        constexpr std::size_t most_bytes = 1U << 16U;
        const nlohmann::json json = io::parse_json(io::read_file(file, most_bytes), file.string());
        if (io::get<std::string>(json, "machine", file.string()) != key) {
            return std::nullopt;
        }
        Numbers numbers;
        for (std::size_t i = 0; i < kept.size(); ++i) {
            numbers[i] = io::get<double>(json, kept[i].key, file.string());
            if (!(numbers[i] >= kept[i].least && numbers[i] <= kept[i].most)) {
                return std::nullopt;
            }
        }
        return rates_from(numbers, io::get_size(json, "threads", file.string()));
    } catch (const core::Error&) {  // missing or broken: as if it were not there
        return std::nullopt;
    }
}

void RatesCache::write(const std::string& key, const MachineRates& rates) const {
    if (folder_.empty()) {
        return;
    }
    nlohmann::ordered_json json = {{"machine", key}, {"threads", rates.threads}};
    const Numbers numbers = numbers_of(rates);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        json[kept[i].key] = numbers[i];
    }
    try {
        io::create_folder(folder_);
        constexpr auto replace = nlohmann::json::error_handler_t::replace;  // whatever a processor calls itself
        io::write_file_atomically(file_of(key), json.dump(1, ' ', false, replace) + "\n");
    } catch (const core::Error&) {  // a folder that can't be written is no reason to fail
    }
}

}  // namespace moesaic::train
