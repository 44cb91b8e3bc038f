// How cases of one name get faster with more ranks and threads.
#pragma once

#include "measure/results.hpp"

#include <string>
#include <vector>

namespace moesaic::measure {

/// One figure of the cases NAME@RANKSxTHREADS.
struct Scaling {
    struct Point {
        const CaseResult* result;
        double speed_up;  ///< work of all ranks per second, over that of the first point
        double low;       ///< of it, by the interval of the figure
        double high;
        double efficiency_percent;  ///< of ideal speed-up, by threads of all ranks
    };
    std::string name;  ///< of the cases, without ranks and threads
    std::string figure;
    std::vector<Point> points;  ///< by ranks, then threads
};

/// All figures that were measured with several numbers of ranks or threads and have a direction, and those of the
/// machine. Where each rank does the whole work by itself (CaseResult::alone), twice the ranks do twice the work. The
/// points refer to `cases`.
[[nodiscard]] std::vector<Scaling> scaling_of(const std::vector<CaseResult>& cases);

}  // namespace moesaic::measure
