// trace.json of a run: a file per rank while a session lasts, joined on one clock at its end.
#pragma once

#include "host/placement.hpp"
#include "measure/trace_recorder.hpp"
#include "mpi/clock_alignment.hpp"
#include "mpi/communicator.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

namespace moesaic::measure {

class TraceOutput {
public:
    /// Collective. Compares the clocks and begins to record to PARTS/rank-R.json; what the folder held is removed.
    TraceOutput(const mpi::Communicator& world, const host::Placement& placement, bool threads_bound,
                std::filesystem::path parts);

    /// Collective. Leaves room for what earlier sessions recorded, which `file` on rank 0 has, if any.
    void follow(const std::filesystem::path& file);

    /// Collective; the last call. Compares the clocks again, adds the ranks' files to `file` as a session on the clock
    /// of rank 0, and removes them. Returns what is known of every rank's clock, on rank 0.
    nlohmann::ordered_json join(const std::filesystem::path& file);

private:
    /// Bytes of the file of each rank, if trace.json has as many.
    [[nodiscard]] std::uint64_t room_after(std::uint64_t bytes) const;
    [[nodiscard]] std::filesystem::path part() const;
    void remove_parts() const;

    const mpi::Communicator world_;
    std::filesystem::path parts_;
    mpi::ClockReading first_;
    std::int64_t origin_ns_ = 0;  ///< on the clock of rank 0
    std::optional<TraceRecorder> recorder_;
};

}  // namespace moesaic::measure
