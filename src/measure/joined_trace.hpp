// trace.json of a run: its sessions one after the other, each with the events of all ranks on one clock.
#pragma once

#include "io/files.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::measure {

/// Between the last event of a session and the first moment of the next. When sessions really were, days apart perhaps,
/// run.json says: on such a time axis nobody would find them.
inline constexpr double us_between_sessions = 1e6;

/// Where a session of the run is in the file.
struct SessionPlace {
    std::int64_t begin_ns = 0;  ///< its first moment, from the beginning of the file
    std::int64_t number = 0;    ///< of sessions before it
};

/// Calls use(text) for pieces of the events in a rank's file, without a comma after the last, so that pieces are to be
/// joined by ",\n". `moved`: where on the clock of rank 0 a moment of this rank is; both in nanoseconds from the origin
/// of the session. An interval stays inside of those around it; numbers of calls and arrows are told apart from those
/// of other sessions, whose ranks count from the same beginning. Returns how many events the file says were dropped.
std::int64_t for_each_piece(const std::filesystem::path& file, const SessionPlace& place,
                            const std::function<std::int64_t(std::int64_t)>& moved,
                            const std::function<void(const std::string&)>& use);

/// The file while one more session is added. Until `commit` the old one is as it was.
class JoinedTrace {
public:
    /// Begins with what `file` has, if it is there and complete lines of moesaic.
    explicit JoinedTrace(const std::filesystem::path& file);

    /// Of the session that is added.
    [[nodiscard]] const SessionPlace& place() const noexcept { return place_; }
    /// Events as for_each_piece gives them, of one rank after the other.
    void add(std::string_view events);
    /// `ranks`: what is known of their clocks; none of a session that was killed.
    void commit(std::int64_t dropped_events, const nlohmann::ordered_json& ranks);

private:
    void copy_sessions(const std::filesystem::path& file);

    io::PartialFile target_;
    io::FileWriter writer_;
    nlohmann::ordered_json sessions_ = nlohmann::ordered_json::array();
    SessionPlace place_;
    bool is_empty_ = true;
};

/// Adds what the ranks of a killed session left in the folder `parts`, if anything, to `file`. Their clocks were
/// compared at the start only.
void add_killed_session(const std::filesystem::path& file, const std::filesystem::path& parts);

/// The files of single ranks in the folder `parts`, by name; none if there is no such folder.
[[nodiscard]] std::vector<std::filesystem::path> trace_parts_in(const std::filesystem::path& parts);

}  // namespace moesaic::measure
