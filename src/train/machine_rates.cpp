#include "train/machine_rates.hpp"

#include "core/error.hpp"
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
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

/// What is kept of rates, in this order. Anything outside of the bounds was not measured.
struct Kept {
    const char* key;
    double least;
    double most;
};
constexpr std::array kept = {Kept{"operations_per_second", 1e6, 1e18},
                             Kept{"bytes_per_second_from_memory", 1e6, 1e15},
                             Kept{"bytes_per_second_within_host", 1e4, 1e15},
                             Kept{"bytes_per_second_between_hosts", 1e4, 1e15},
                             Kept{"seconds_of_call_within_host", 1e-9, 10},
                             Kept{"seconds_of_call_between_hosts", 1e-9, 10}};
using Numbers = std::array<double, kept.size()>;

Numbers numbers_of(const MachineRates& rates) {
    return {rates.limits.peak_flops, rates.limits.bytes_per_second, rates.copy,
            rates.network,           rates.copy_latency,            rates.network_latency};
}

MachineRates rates_from(const Numbers& n, index_t threads) {
    return {.limits = {n[0], n[1]},
            .threads = threads,
            .copy = n[2],
            .network = n[3],
            .copy_latency = n[4],
            .network_latency = n[5]};
}

/// Rate and latency of an all-gather in a group.
struct Exchange {
    double bytes_per_second = 0;
    double latency = 0;
};

/// Collective over `world`, whose ranks are in groups of their own. The slowest group counts; nothing if no group has
/// two ranks.
std::optional<Exchange> measure_exchange(const mpi::Communicator& world, const mpi::Communicator& group) {
    constexpr index_t cols = 2048;
    constexpr index_t rows = 256;  // of a rank: 1 MiB
    constexpr int repetitions = 8;
    const auto ranks = static_cast<index_t>(group.size());
    const index_t largest = world.max(ranks);
    if (largest == 1) {
        return std::nullopt;
    }
    const auto gather = [&](index_t of_rank, const core::Matrix<core::bf16>& mine, core::Matrix<core::bf16>& all) {
        const std::vector<index_t> counts(static_cast<std::size_t>(ranks), of_rank);
        group.all_gather_rows<core::bf16>(mine.view().rows(0, of_rank), all.view().rows(0, of_rank * ranks), counts);
    };
    core::Matrix<core::bf16> mine(rows, cols);
    core::Matrix<core::bf16> all(rows * ranks, cols);
    double best = 0;
    double quickest = 1;
    for (int i = 0; i < repetitions; ++i) {
        const double bytes = static_cast<double>((largest - 1) * rows * cols) * sizeof(core::bf16);
        best = std::max(best, mpi::seconds_of(world, [&] { gather(rows, mine, all); }).rate_of(bytes).slowest);
        constexpr int calls = 4;
        const mpi::Sample seconds = mpi::seconds_of(world, [&] {
            for (int call = 0; call < calls; ++call) {
                gather(1, mine, all);
            }
        });
        quickest = std::min(quickest, seconds.slowest / calls);
    }
    return Exchange{best, quickest};
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
    return fmt::format("{}; ranks {} on {} hosts, {} of a host; threads {}; cores {}; {}",
                       fmt::join(std::set<std::string>(models.begin(), models.end()), ", "), ranks.world.size(),
                       ranks.world.sum(static_cast<index_t>(placement.node_rank == 0 ? 1 : 0)),
                       all_alike(placement.node_ranks), all_alike(placement.threads),
                       all_alike(static_cast<index_t>(placement.cores.size())),
                       kernels::name(bf16_level(ranks.kernels)));
}

}  // namespace

Efficiency usual_efficiency(kernels::Isa level) {
    return level == kernels::Isa::amx ? Efficiency{.experts = 0.25, .projections = 0.15, .scores = 0.1}
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
            .copy = 2e9,
            .network = 5e8,
            .copy_latency = 1e-5,
            .network_latency = 4e-5,
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
    if (const auto within = measure_exchange(world, ranks.host_group)) {
        rates.copy = within->bytes_per_second;
        rates.copy_latency = within->latency;
    }
    const mpi::Communicator across = world.split(ranks.placement.node_rank, world.rank());
    if (const auto between = measure_exchange(world, across)) {
        rates.network = between->bytes_per_second;
        rates.network_latency = between->latency;
    }
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
        if (world.is_root()) {
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
