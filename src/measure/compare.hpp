// Is one program slower than another? Two sides of results, of one run or of several runs each.
#pragma once

#include "measure/results.hpp"

#include <string>
#include <vector>

namespace moesaic::measure {

/// What is set against what.
enum class Pairing : std::uint8_t {
    rounds,  ///< all rounds of one side against those of the other
    runs,    ///< whole runs, where both sides have several
    turns,   ///< each round and the one that the other side measured in turn with it
};

/// Repetitions of one figure in one round of one run, or in a whole run, and the limits of the machine beside them.
struct Block {
    double log_time = 0;  ///< of a unit of work; median of the repetitions
    double log_peak = 0;  ///< 0 if unknown
    double log_read = 0;  ///< 0 if unknown
};

enum class Verdict : std::uint8_t {
    same,
    slower,
    faster,
    machine,  ///< B takes longer, or less, but so does all that the machine can do at best
    unclear,  ///< it may be slower or faster, the measurements vary too much to tell
    missing,  ///< side B doesn't have it
};

/// What changed from side A to side B in one figure.
struct Change {
    std::string figure = {};   ///< "CASE/FIGURE"
    double percent = 0;        ///< of time: above 0, B takes longer; the part that the machine's limits don't explain
    double raw_percent = 0;    ///< as measured
    double p = 1;              ///< of what was measured, adjusted for the number of figures
    double noise_percent = 0;  ///< half the range that 90 % of the blocks of a side are in, of the worse side
    Pairing pairing = Pairing::rounds;  ///< that of the comparison, unless a run lacks the figure or rounds of it
    Verdict verdict = Verdict::same;
};

/// A limit of the machine on both sides.
struct LimitChange {
    std::string name;
    double percent = 0;  ///< of the rate: above 0, the machine of B is faster
};

struct Comparison {
    std::vector<Change> changes;
    std::vector<LimitChange> limits;  ///< of the case "machine", where both sides have it
    std::vector<std::string> sides;   ///< what A and B are
    std::vector<std::string> notes;   ///< what makes the sides hard to compare
    Pairing pairing = Pairing::rounds;

    /// Something is slower, or missing; if `strict`, or unclear.
    [[nodiscard]] bool fails(bool strict) const;
};

/// Compares every figure of A that has a better. It is slower if it takes at least `threshold` percent longer, with
/// less than 1 % probability that one of all figures does so by chance; and, unless runs took turns, if it would still
/// do so had the machine's own limits not changed, as far as they did significantly. Of single runs the change must
/// also exceed the range that 90 % of the rounds of a side are in. Throws a usage error for sides without common
/// figures, and for cases whose parameters differ.
[[nodiscard]] Comparison compare(const std::vector<Results>& a, const std::vector<Results>& b, double threshold);

/// A table for people.
[[nodiscard]] std::string to_text(const Comparison& comparison, double threshold);

}  // namespace moesaic::measure
