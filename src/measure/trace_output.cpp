#include "measure/trace_output.hpp"

#include "core/error.hpp"
#include "io/files.hpp"
#include "measure/joined_trace.hpp"
#include "measure/run_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <utility>

namespace moesaic::measure {
namespace {

namespace keys = run_keys;

/// Bytes of the joined file, for all ranks together.
constexpr std::uint64_t largest_trace = std::uint64_t{256} << 20U;

/// Work that may fail while other ranks send whatever happens here: nothing more is tried then, and the error is thrown
/// once they are done.
class Attempts {
public:
    void make(const std::function<void()>& work) {
        try {
            if (!problem_) {
                work();
            }
        } catch (const core::Error&) {
            problem_ = std::current_exception();
        }
    }
    void require_success() const {
        if (problem_) {
            std::rethrow_exception(problem_);
        }
    }

private:
    std::exception_ptr problem_;
};

void send_text(const mpi::Communicator& world, const std::string& text) {
    const std::uint64_t length = text.size();
    world.send(std::as_bytes(std::span(&length, 1)), 0);
    world.send(std::as_bytes(std::span(text)), 0);
}

std::string receive_text(const mpi::Communicator& world, int from) {
    std::uint64_t length = 0;
    world.receive(std::as_writable_bytes(std::span(&length, 1)), from);
    std::string text(length, '\0');
    world.receive(std::as_writable_bytes(std::span(text)), from);
    return text;
}

}  // namespace

TraceOutput::TraceOutput(const mpi::Communicator& world, const host::Placement& placement, bool threads_bound,
                         std::filesystem::path parts)
    : world_(world), parts_(std::move(parts)), first_(mpi::read_clock_of_root(world)) {
    origin_ns_ = core::trace::now_ns();
    world.broadcast(std::span<std::int64_t>(&origin_ns_, 1));
    world.agree([&] {
        if (world.is_root()) {
            remove_parts();
        }
    });
    world.agree([&] {
        io::create_folder(parts_);
        recorder_.emplace(TraceRecorder::Settings{part(), fmt::format("rank {} ({})", world.rank(), placement.host),
                                                  world.rank(), origin_ns_ - std::llround(first_.offset_ns),
                                                  room_after(0),
                                                  threads_bound ? placement.processing_units : std::vector<int>()});
    });
}

std::uint64_t TraceOutput::room_after(std::uint64_t bytes) const {
    return (largest_trace - std::min(largest_trace, bytes)) / static_cast<std::uint64_t>(world_.size());
}

void TraceOutput::follow(const std::filesystem::path& file) {
    std::error_code missing;
    const std::uintmax_t size = world_.is_root() ? std::filesystem::file_size(file, missing) : 0;
    std::uint64_t bytes = missing ? 0 : size;
    world_.broadcast(std::span<std::uint64_t>(&bytes, 1));
    recorder_->limit_file(room_after(bytes));
}

std::filesystem::path TraceOutput::part() const {
    return parts_ / fmt::format("rank-{}.json", world_.rank());
}

void TraceOutput::remove_parts() const {
    std::error_code ignored;  // files that stay do no harm
    std::filesystem::remove_all(parts_, ignored);
}

nlohmann::ordered_json TraceOutput::join(const std::filesystem::path& file) {
    recorder_->stop();
    const mpi::ClockReading last = mpi::read_clock_of_root(world_);
    const mpi::ClockLine line(first_, last);
    const nlohmann::ordered_json mine = {
        {keys::rank, world_.rank()},
        {keys::clock, core::has_invariant_tsc ? "time stamp counter" : "monotonic clock"},
        {keys::ticks_per_second, core::trace::ticks_per_second()},
        {keys::offset_us, first_.offset_ns * 1e-3},
        {keys::offset_at_end_us, last.offset_ns * 1e-3},
        {keys::drift_ppm, line.drift_ppm()},
        {keys::error_us, line.error_ns() * 1e-3},
        {keys::dropped_events, recorder_->dropped()}};
    const auto moved = [&](std::int64_t ns) {
        const double at_ns = static_cast<double>(ns + origin_ns_) - first_.offset_ns;
        return ns + std::llround(line.offset_ns(at_ns) - first_.offset_ns);
    };
    const std::vector<std::string> clocks = world_.gather(mine.dump());
    auto ranks = nlohmann::ordered_json::array();
    for (const std::string& clock : clocks) {
        ranks.push_back(nlohmann::ordered_json::parse(clock));
    }
    Attempts attempts;
    std::optional<JoinedTrace> joined;
    SessionPlace place;
    if (world_.is_root()) {
        attempts.make([&] { place = joined.emplace(file).place(); });
    }
    world_.broadcast(std::span<SessionPlace>(&place, 1));
    if (world_.is_root()) {
        const auto add = [&](const std::string& piece) { attempts.make([&] { joined->add(piece); }); };
        for_each_piece(part(), place, moved, add);
        for (int rank = 1; rank < world_.size(); ++rank) {
            for (std::string piece = receive_text(world_, rank); !piece.empty(); piece = receive_text(world_, rank)) {
                add(piece);
            }
        }
        std::int64_t dropped = 0;
        for (const auto& rank : ranks) {
            dropped += rank[keys::dropped_events].get<std::int64_t>();
        }
        attempts.make([&] { joined->commit(dropped, ranks); });
    } else {
        for_each_piece(part(), place, moved, [&](const std::string& piece) { send_text(world_, piece); });
        send_text(world_, "");
    }
    world_.agree([&] {
        attempts.require_success();
        remove_parts();
    });
    return ranks;
}

}  // namespace moesaic::measure
