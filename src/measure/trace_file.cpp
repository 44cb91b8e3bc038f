#include "measure/trace_file.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "measure/joined_trace.hpp"
#include "measure/run_keys.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace moesaic::measure {
namespace {

using core::ExitCode;

/// Longest line that can be an event or the end: values of all experts, or the clocks of all ranks.
constexpr std::size_t longest_line = std::size_t{4} << 20U;
constexpr std::size_t most_events = std::size_t{16} << 20U;
constexpr double longest_us = 1e15;  // thirty years; sums of as many as fit into a file are finite
/// Set in the numbers of its calls: in those of joined sessions it is not before the 128th of them.
constexpr std::uint64_t call_of_last_session = std::uint64_t{1} << 63U;
constexpr double largest_count = 1e18;  // tokens, bytes, bytes per second

class Reader {
public:
    /// `session`: that all of the file belongs to; null: it lists its sessions itself.
    Reader(Trace& trace, const std::filesystem::path& file, const TraceSession* session)
        : trace_(trace), file_(file), session_(session) {
        static_cast<void>(io::open_for_reading(file));  // a FIFO would be waited for
        in_.open(file);
        if (!in_) {
            io::fail_reading(file, errno);
        }
    }

    void read() {
        std::string line;
        if (!std::getline(in_, line) || line.find("\"traceEvents\":[") == std::string::npos) {
            core::fail(ExitCode::corrupt_input,
                       "{} is no trace of moesaic (its first line does not begin one); give the output folder of a run",
                       file_.string());
        }
        bool ended = false;
        for (number_ = 2; !ended && std::getline(in_, line); ++number_) {
            core::require(line.size() <= longest_line, ExitCode::corrupt_input,
                          "{}:{}: the line is too long ({} bytes, at most {}); the file is damaged", file_.string(),
                          number_, line.size(), longest_line);
            ended = line.starts_with(']');
            if (!ended && in_.eof()) {
                break;  // its writer was killed here
            }
            if (ended) {
                read_end(line);
            } else if (!line.empty()) {
                read_event(line);
            }
        }
        trace_.is_complete = trace_.is_complete && ended;
    }

private:
    void read_end(const std::string& line) {
        constexpr std::string_view before = "],";
        if (!line.starts_with(before)) {
            return;
        }
        const auto end = io::parse_json(fmt::format("{{{}", line.substr(before.size())), source(), {}, number_);
        const auto data = io::get<nlohmann::json>(end, "otherData", source());
        trace_.dropped += io::get_or<std::int64_t>(data, run_keys::dropped_events, 0, source());
        for (const auto& item : io::get_or<std::vector<nlohmann::json>>(data, run_keys::sessions, {}, source())) {
            read_session(item);
        }
    }

    void read_session(const nlohmann::json& item) {
        TraceSession& session = trace_.sessions.emplace_back();
        session.begin = number(item, run_keys::begin_us, -longest_us, longest_us);
        trace_.dropped += io::get_or<std::int64_t>(item, run_keys::dropped_events, 0, source());
        for (const auto& clock : io::get_or<std::vector<nlohmann::json>>(item, run_keys::ranks, {}, source())) {
            session.clocks.push_back(
                {.rank = io::get<double>(clock, run_keys::rank, source()),
                 .kind = io::get<std::string>(clock, run_keys::clock, source()),
                 .offset_us = number(clock, run_keys::offset_us, -longest_us, longest_us),
                 .offset_at_end_us = number(clock, run_keys::offset_at_end_us, -longest_us, longest_us),
                 .drift_ppm = number(clock, run_keys::drift_ppm, -longest_us, longest_us),
                 .error_us = number(clock, run_keys::error_us, 0, longest_us)});
        }
    }

    void read_event(std::string& line) {
        if (line.ends_with(',')) {
            line.pop_back();
        }
        const nlohmann::json event = io::parse_json(line, source(), {}, number_);
        const int rank = io::get<int>(event, "pid", source());
        std::vector<TraceInterval>& of_rank = trace_.ranks[rank];  // also where all that is left of a rank is its name
        const auto phase = io::get<std::string>(event, "ph", source());
        if (phase == "X") {
            read_interval(event, of_rank);
        } else if (phase == "C") {
            read_counter(event, rank);
        }
    }

    void read_interval(const nlohmann::json& event, std::vector<TraceInterval>& of_rank) {
        TraceInterval interval;
        interval.begin = moment(event);
        interval.end = interval.begin + number(event, "dur", 0, longest_us);
        interval.name = trace_.add_name(io::get<std::string>(event, "name", source()));
        interval.category = trace_.add_name(io::get<std::string>(event, "cat", source()));
        interval.thread = io::get<int>(event, "tid", source());
        if (event.contains("args")) {
            interval.bytes = io::get_or<std::int64_t>(event["args"], "bytes", 0, source());
            const std::string call = io::get_or<std::string>(event["args"], "call", "0", source());
            std::from_chars(call.data(), call.data() + call.size(), interval.call, 16);
            interval.call |= session_ != nullptr && interval.call != 0 ? call_of_last_session : 0;
        }
        core::require(of_rank.size() < most_events, ExitCode::corrupt_input,
                      "{} has more than {} events of one rank (it would not fit into memory); trace fewer steps",
                      file_.string(), most_events);
        of_rank.push_back(interval);
    }

    void read_counter(const nlohmann::json& event, int rank) {
        TraceCounter counter;
        counter.rank = rank;
        counter.name = trace_.add_name(io::get<std::string>(event, "name", source()));
        counter.at = moment(event);
        const auto values = io::get<nlohmann::json>(event, "args", source());
        for (const auto& [key, value] : values.items()) {
            std::size_t place = counter.values.size();  // series are numbers, or there is one
            std::from_chars(key.data(), key.data() + key.size(), place);
            core::require(place < values.size(), ExitCode::corrupt_input,
                          "{}:{}: counter {} has no series {} ({} of them); the file is damaged", file_.string(),
                          number_, trace_.names[static_cast<std::size_t>(counter.name)], core::printable(key),
                          values.size());
            counter.values.resize(values.size());
            counter.values[place] = number(values, key, 0, largest_count);
        }
        trace_.counters.push_back(std::move(counter));
    }

    [[nodiscard]] double moment(const nlohmann::json& event) const {
        return number(event, "ts", -longest_us, longest_us) + (session_ != nullptr ? session_->begin : 0);
    }

    /// A number that nothing computed from it can make infinite.
    [[nodiscard]] double number(const nlohmann::json& object, const std::string& key, double least, double most) const {
        const auto value = io::get<double>(object, key, source());
        core::require(value >= least && value <= most, ExitCode::corrupt_input,
                      "{}:{}: '{}' is {} (it must be from {} to {}); the file is damaged", file_.string(), number_,
                      core::printable(key), value, least, most);
        return value;
    }

    [[nodiscard]] std::string source() const { return file_.string(); }

    Trace& trace_;
    std::filesystem::path file_;
    const TraceSession* session_;
    std::ifstream in_;
    std::size_t number_ = 1;
};

/// Where a session begins that follows those of the trace.
double next_begin(const Trace& trace) {
    double end = 0;
    for (const auto& [rank, intervals] : trace.ranks) {
        for (const TraceInterval& interval : intervals) {
            end = std::max(end, interval.end);
        }
    }
    return trace.ranks.empty() ? 0 : end + us_between_sessions;
}

}  // namespace

Trace read_trace(const std::filesystem::path& joined, const std::filesystem::path& parts) {
    Trace trace;
    if (std::filesystem::exists(joined)) {
        Reader(trace, joined, nullptr).read();
    }
    const std::vector<std::filesystem::path> files = trace_parts_in(parts);
    if (!files.empty()) {
        const TraceSession session = {next_begin(trace), {}};
        for (const std::filesystem::path& file : files) {
            Reader(trace, file, &session).read();
        }
        trace.sessions.push_back(session);
    }
    return trace;
}

}  // namespace moesaic::measure
