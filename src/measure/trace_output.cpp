#include "measure/trace_output.hpp"

#include "core/error.hpp"
#include "core/trace_time.hpp"
#include "io/files.hpp"
#include "measure/run_keys.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <exception>
#include <fstream>
#include <functional>
#include <string_view>
#include <utility>

namespace moesaic::measure {
namespace {

namespace keys = run_keys;

/// Bytes of the joined file, for all ranks together.
constexpr std::uint64_t largest_trace = std::uint64_t{256} << 20U;
/// Bytes of events that travel to rank 0 at once.
constexpr std::size_t piece_bytes = std::size_t{1} << 20U;

/// A number in a line, and where it stands.
struct Number {
    std::size_t begin = 0;
    std::size_t end = 0;
    double value = 0;
};

std::optional<Number> find_number(const std::string& line, std::string_view key) {
    const std::size_t at = line.rfind(key);  // behind the name, which may hold anything
    if (at == std::string::npos) {
        return {};
    }
    Number found;
    found.begin = at + key.size();
    const auto read = std::from_chars(line.data() + found.begin, line.data() + line.size(), found.value);
    found.end = static_cast<std::size_t>(read.ptr - line.data());
    return found;
}

/// Where on the clock of rank 0 a moment of this rank is; both in nanoseconds from the origin.
using Shift = std::function<std::int64_t(std::int64_t)>;

/// `event` with its times moved. An interval stays inside of those around it.
std::string shifted(const std::string& event, const Shift& shift) {
    const auto begin = find_number(event, "\"ts\":");
    if (!begin) {
        return event;
    }
    const auto moved = [&](double us) { return core::trace::TraceTime::of_ns(shift(std::llround(us * 1e3))); };
    std::string out = event.substr(0, begin->begin);
    moved(begin->value).append_to(out);
    std::size_t copied = begin->end;
    if (const auto duration = find_number(event, "\"dur\":")) {
        out += event.substr(copied, duration->begin - copied);
        (moved(begin->value + duration->value) - moved(begin->value)).append_to(out);
        copied = duration->end;
    }
    return out + event.substr(copied);
}

/// Calls use(text) for pieces of the events in a rank's file, which are separated by ",\n".
void for_each_piece(const std::filesystem::path& file, const Shift& shift,
                    const std::function<void(const std::string&)>& use) {
    std::ifstream in(file);
    std::string piece;
    std::string event;
    std::getline(in, event);  // begins the document
    while (std::getline(in, event) && event.starts_with('{')) {
        piece += shifted(event, shift);
        piece += event.ends_with(',') ? "\n" : "";
        if (piece.size() >= piece_bytes) {
            use(std::exchange(piece, {}));
        }
    }
    if (!piece.empty()) {
        use(piece);
    }
}

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

/// On rank 0: its own events and those that the others send. They send whatever happens here, so that an error is
/// returned at the end.
std::exception_ptr write_joined(const mpi::Communicator& world, const std::filesystem::path& file,
                                const std::filesystem::path& part, const Shift& shift,
                                const nlohmann::ordered_json& ranks) {
    std::exception_ptr problem;
    const auto attempt = [&](const std::function<void()>& work) {
        try {
            if (!problem) {
                work();
            }
        } catch (const core::Error&) {
            problem = std::current_exception();
        }
    };
    std::optional<io::PartialFile> target;
    std::optional<io::FileWriter> writer;
    bool is_first = true;
    const auto write = [&](std::string_view text) { attempt([&] { writer->write(std::as_bytes(std::span(text))); }); };
    const auto write_events = [&](const std::string& piece, bool begins_rank) {
        write(begins_rank && !is_first && !piece.empty() ? ",\n" : "");
        write(piece);
        is_first = is_first && piece.empty();
    };
    attempt([&] {
        target.emplace(file);
        writer.emplace(*target);
    });
    write(trace_begin);
    for_each_piece(part, shift, [&](const std::string& piece) { write_events(piece, false); });
    for (int rank = 1; rank < world.size(); ++rank) {
        bool begins_rank = true;
        for (std::string piece = receive_text(world, rank); !piece.empty(); piece = receive_text(world, rank)) {
            write_events(piece, std::exchange(begins_rank, false));
        }
    }
    std::int64_t dropped = 0;
    for (const auto& rank : ranks) {
        dropped += rank[keys::dropped_events].get<std::int64_t>();
    }
    write(fmt::format("\n],\"otherData\":{{\"dropped_events\":{},\"ranks\":{}}}}}\n", dropped, ranks.dump()));
    attempt([&] {
        writer->close();
        target->commit();
    });
    return problem;
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
                                                  largest_trace / static_cast<std::uint64_t>(world.size()),
                                                  threads_bound ? placement.processing_units : std::vector<int>()});
    });
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
    const Shift shift = [&](std::int64_t ns) {
        const double at_ns = static_cast<double>(ns + origin_ns_) - first_.offset_ns;
        return ns + std::llround(line.offset_ns(at_ns) - first_.offset_ns);
    };
    const std::vector<std::string> clocks = world_.gather(mine.dump());
    auto ranks = nlohmann::ordered_json::array();
    for (const std::string& clock : clocks) {
        ranks.push_back(nlohmann::ordered_json::parse(clock));
    }
    std::exception_ptr problem;
    if (world_.is_root()) {
        problem = write_joined(world_, file, part(), shift, ranks);
    } else {
        for_each_piece(part(), shift, [&](const std::string& piece) { send_text(world_, piece); });
        send_text(world_, "");
    }
    world_.agree([&] {
        if (problem) {
            std::rethrow_exception(problem);
        }
        remove_parts();
    });
    return ranks;
}

}  // namespace moesaic::measure
