// How fast ranks compute, read memory and exchange data while all of them do: measured, remembered, or usual.
#pragma once

#include "core/work.hpp"
#include "kernels/isa.hpp"
#include "mpi/communicator.hpp"
#include "train/runtime.hpp"

#include <filesystem>
#include <optional>
#include <string>

namespace moesaic::train {

/// Parts of the peak that products of a training step reach.
struct Efficiency {
    double experts = 0;
    double projections = 0;  ///< and head
    double scores = 0;       ///< of attention
};
/// Where no step was measured; docs/benchmarking.md says where it comes from.
[[nodiscard]] Efficiency usual_efficiency(kernels::Isa level);

/// Of collectives of ranks that are all on one host, or all on different ones.
struct LinkRates {
    double gather = 0;   ///< bytes per second that a rank gets from the others
    double sum = 0;      ///< bytes per second of a rank's values that the others add to theirs
    double latency = 0;  ///< seconds of a call with a few bytes
};

/// Of a rank with so many threads, while all ranks do the same.
struct MachineRates {
    core::MachineLimits limits;
    index_t threads = 1;
    LinkRates host;
    LinkRates network;
    Efficiency efficiency = {};
    std::string source = {};  ///< "measured now"

    /// Those of a rank that has other threads of the same machine: each with its share.
    [[nodiscard]] MachineRates with_threads(index_t other_threads) const;
    [[nodiscard]] core::MachineLimits limits_of(index_t other_threads) const {
        return with_threads(other_threads).limits;
    }
};

/// Of CPUs of this level that nobody has measured: orders of magnitude.
[[nodiscard]] MachineRates usual_rates(kernels::Isa level, index_t threads);

/// Collective. Measures for about a second.
[[nodiscard]] MachineRates measure_rates(const Ranks& ranks);

/// Collective. What such ranks measured earlier on such machines, or what they measure now, which the cache keeps.
[[nodiscard]] MachineRates rates_of(const Ranks& ranks);

/// Files of measured rates, one for each kind of machine, number of ranks and threads. Nothing that goes wrong with
/// them matters: then they are measured again.
class RatesCache {
public:
    /// Of a folder; an empty path: nothing is kept.
    explicit RatesCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
    /// $XDG_CACHE_HOME/moesaic, or ~/.cache/moesaic.
    [[nodiscard]] static RatesCache of_user();

    /// Limits, threads and rates of exchange, without efficiency; nothing unless the file is about `key` and all its
    /// numbers are possible.
    [[nodiscard]] std::optional<MachineRates> read(const std::string& key) const;
    void write(const std::string& key, const MachineRates& rates) const;
    [[nodiscard]] std::filesystem::path file_of(const std::string& key) const;

private:
    std::filesystem::path folder_;
};

}  // namespace moesaic::train
