// trace.json of a run: a file per rank while the run lasts, joined on one clock at its end.
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

    /// Collective; the last call. Compares the clocks again, joins the ranks' files into `file` on the clock of rank 0,
    /// and removes them. Returns what is known of every rank's clock, on rank 0.
    nlohmann::ordered_json join(const std::filesystem::path& file);

private:
    [[nodiscard]] std::filesystem::path part() const;
    void remove_parts() const;

    const mpi::Communicator world_;
    std::filesystem::path parts_;
    mpi::ClockReading first_;
    std::int64_t origin_ns_ = 0;  ///< on the clock of rank 0
    std::optional<TraceRecorder> recorder_;
};

}  // namespace moesaic::measure
