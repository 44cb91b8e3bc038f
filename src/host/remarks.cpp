#include "host/remarks.hpp"

#include "core/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace moesaic::host {
namespace {

constexpr char field_end = '\x1f';   // ASCII's unit separator
constexpr char remark_end = '\x1e';  // ASCII's record separator

/// The same problem of several ranks.
struct Group {
    Remark first;
    std::vector<int> ranks;
};

std::string line_of(const Group& group, bool several_ranks) {
    const Remark& remark = group.first;
    const std::string detail =
        group.ranks.size() > 1 ? fmt::format("rank {}: {}", group.ranks.front(), remark.detail) : remark.detail;
    return fmt::format(
        "{}{}{}{}",
        several_ranks ? fmt::format("{} {}: ", group.ranks.size() > 1 ? "ranks" : "rank", core::ranges(group.ranks))
                      : "",
        remark.problem, remark.detail.empty() ? "" : " (" + detail + ")",
        remark.advice.empty() ? "" : "; " + remark.advice);
}

}  // namespace

std::string RemarkLine::with_severity() const {
    return (severity == Severity::warning ? "warning: " : "note: ") + text;
}

std::vector<RemarkLine> group_remarks(const std::vector<std::vector<Remark>>& of_ranks) {
    std::vector<Group> groups;
    for (std::size_t rank = 0; rank < of_ranks.size(); ++rank) {
        for (const Remark& remark : of_ranks[rank]) {
            const auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
                return group.first.severity == remark.severity && group.first.problem == remark.problem;
            });
            Group& group = found == groups.end() ? groups.emplace_back(Group{remark, {}}) : *found;
            group.ranks.push_back(static_cast<int>(rank));
        }
    }
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Group& a, const Group& b) { return a.first.severity > b.first.severity; });
    std::vector<RemarkLine> lines;
    lines.reserve(groups.size());
    for (const Group& group : groups) {
        lines.push_back({group.first.severity, line_of(group, of_ranks.size() > 1)});
    }
    return lines;
}

std::string to_text(const std::vector<Remark>& remarks) {
    std::string text;
    for (const Remark& remark : remarks) {
        text += fmt::format("{}{}{}{}{}{}{}{}", remark.severity == Severity::warning ? 'w' : 'n', field_end,
                            remark.problem, field_end, remark.detail, field_end, remark.advice, remark_end);
    }
    return text;
}

std::vector<Remark> remarks_from(const std::string& text) {
    std::vector<Remark> remarks;
    std::istringstream stream(text);
    for (std::string record; std::getline(stream, record, remark_end);) {
        std::istringstream fields(record);
        std::string severity;
        Remark remark;
        std::getline(fields, severity, field_end);
        std::getline(fields, remark.problem, field_end);
        std::getline(fields, remark.detail, field_end);
        std::getline(fields, remark.advice, field_end);
        remark.severity = severity == "w" ? Severity::warning : Severity::note;
        remarks.push_back(std::move(remark));
    }
    return remarks;
}

}  // namespace moesaic::host
