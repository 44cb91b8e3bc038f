// What ranks have to say about their machine, told once for all ranks that say the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moesaic::host {

/// A note is for information; a warning is about lost speed, wrong figures or danger to the run.
enum class Severity : std::uint8_t { note, warning };

struct Remark {
    Severity severity = Severity::note;
    std::string problem;      ///< the same text on all ranks that have it
    std::string detail = {};  ///< of this rank; may be empty
    std::string advice = {};  ///< what to do; may be empty
};

/// What several ranks say.
struct RemarkLine {
    Severity severity = Severity::note;
    std::string
        text;  ///< "ranks 0-3,7: PROBLEM (DETAIL of the first rank); ADVICE", without ranks if there is one only

    /// With "warning: " or "note: " before it.
    [[nodiscard]] std::string with_severity() const;
};

/// One line for each problem, warnings first. of_ranks[rank]
[[nodiscard]] std::vector<RemarkLine> group_remarks(const std::vector<std::vector<Remark>>& of_ranks);

/// Remarks as one text and back, to be sent between ranks.
[[nodiscard]] std::string to_text(const std::vector<Remark>& remarks);
[[nodiscard]] std::vector<Remark> remarks_from(const std::string& text);

}  // namespace moesaic::host
