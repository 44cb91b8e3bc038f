#include "measure/compare.hpp"

#include "core/counted.hpp"
#include "core/error.hpp"
#include "measure/significance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace moesaic::measure {
namespace {

constexpr double significance = 0.01;
constexpr double significance_of_limits = 0.05;
constexpr std::size_t most_blocks_of_a_run = 10;  // without rounds

double median_of(std::vector<double> values) {
    return summarize(std::move(values)).median;
}

/// Time of a unit of work, from a time or a rate.
double log_time(const Figure& figure, double sample) {
    return figure.better == Better::lower ? std::log(sample) : -std::log(sample);
}

/// Median of part [begin, begin + count) of `values` in logarithms; 0 without values.
double log_median(const std::vector<double>& values, std::size_t begin, std::size_t count) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
    return values.empty() ? 0 : std::log(median_of({first, first + static_cast<std::ptrdiff_t>(count)}));
}

Block block_of(const CaseResult& result, const Figure& figure, std::size_t begin, std::size_t count) {
    std::vector<double> times;
    for (std::size_t i = begin; i < begin + count; ++i) {
        times.push_back(log_time(figure, figure.samples[i]));
    }
    Block block = {.log_time = median_of(std::move(times))};
    if (result.machine) {
        block.log_peak = log_median(result.machine->peak, begin, count);
        block.log_read = log_median(result.machine->dram_read, begin, count);
    }
    return block;
}

/// Repetitions in each round. A run without rounds is cut: neighbours share the state of the machine, and would look
/// more certain than they are if each counted.
std::vector<index_t> rounds_of(const CaseResult& result) {
    if (result.rounds.size() != 1) {
        return result.rounds;
    }
    const auto all = static_cast<std::size_t>(result.rounds.front());
    const std::size_t blocks = std::min(all, most_blocks_of_a_run);
    std::vector<index_t> rounds;
    for (std::size_t block = 0; block < blocks; ++block) {
        rounds.push_back(static_cast<index_t>((block + 1) * all / blocks - block * all / blocks));
    }
    return rounds;
}

std::vector<Block> blocks_of(const std::vector<Results>& side, const std::string& case_name, const std::string& name,
                             Pairing pairing) {
    std::vector<Block> blocks;
    for (const Results& run : side) {
        const CaseResult* result = run.find(case_name);
        const Figure* figure = result == nullptr ? nullptr : result->find(name);
        if (figure == nullptr || figure->samples.empty()) {
            continue;
        }
        if (pairing == Pairing::runs) {
            blocks.push_back(block_of(*result, *figure, 0, figure->samples.size()));
            continue;
        }
        std::size_t begin = 0;
        for (const index_t repetitions : rounds_of(*result)) {
            const auto count = static_cast<std::size_t>(repetitions);
            blocks.push_back(block_of(*result, *figure, begin, count));
            begin += count;
        }
    }
    return blocks;
}

template <class Value>
std::vector<double> values_of(const std::vector<Block>& blocks, const Value& value) {
    std::vector<double> values(blocks.size());
    std::transform(blocks.begin(), blocks.end(), values.begin(), value);
    return values;
}

/// Half the range that 90 % of these logarithms are in.
double noise_percent(std::vector<double> logarithms) {
    std::sort(logarithms.begin(), logarithms.end());
    const std::size_t cut = logarithms.size() / 20;
    return 50 * std::expm1(logarithms[logarithms.size() - 1 - cut] - logarithms[cut]);
}

/// Of rounds in turns: both of a pair share the state of the machine.
Change change_of_pairs(const std::vector<Block>& a, const std::vector<Block>& b) {
    std::vector<double> differences(a.size());
    std::transform(b.begin(), b.end(), a.begin(), differences.begin(),
                   [](const Block& after, const Block& before) { return after.log_time - before.log_time; });
    const double percent = 100 * std::expm1(center(differences));
    return {.percent = percent,
            .raw_percent = percent,
            .p = signed_rank(differences),
            .noise_percent = noise_percent(std::move(differences)),
            .pairing = Pairing::turns};
}

/// Probability that such a difference is chance.
double probability(const std::vector<double>& a, const std::vector<double>& b, Pairing pairing) {
    return pairing == Pairing::runs ? welch(a, b) : mann_whitney(a, b);
}

/// Work that is bound by computing takes as much longer as the peak is lower, and likewise for memory. Where one of the
/// two has changed, too, the rest counts.
Change change_of(const std::vector<Block>& a, const std::vector<Block>& b, Pairing pairing) {
    const auto time = [](const Block& block) { return block.log_time; };
    const std::vector<double> of_a = values_of(a, time);
    const std::vector<double> of_b = values_of(b, time);
    const double measured = shift(of_a, of_b);
    double own = measured;
    for (const auto& limit :
         {+[](const Block& block) { return block.log_peak; }, +[](const Block& block) { return block.log_read; }}) {
        const std::vector<double> limit_a = values_of(a, limit);
        const std::vector<double> limit_b = values_of(b, limit);
        if (probability(limit_a, limit_b, pairing) < significance_of_limits) {
            const double rest = measured + shift(limit_a, limit_b);
            own = rest * measured <= 0 ? 0 : std::abs(rest) < std::abs(own) ? rest : own;
        }
    }
    return {.percent = 100 * std::expm1(own),
            .raw_percent = 100 * std::expm1(measured),
            .p = probability(of_a, of_b, pairing),
            .noise_percent = std::max(noise_percent(of_a), noise_percent(of_b)),
            .pairing = pairing};
}

/// Of single runs, the range of their rounds stands for how much runs of one build may differ.
Verdict verdict_of(const Change& change, double threshold) {
    const double range = change.pairing == Pairing::rounds ? 2 * change.noise_percent : 0;
    if (std::abs(change.raw_percent) >= threshold && change.p < significance) {
        if (std::abs(change.percent) < threshold) {
            return Verdict::machine;
        }
        if (std::abs(change.percent) < range) {
            return Verdict::unclear;
        }
        return change.percent > 0 ? Verdict::slower : Verdict::faster;
    }
    return std::max(change.noise_percent, std::abs(change.raw_percent)) >= threshold ? Verdict::unclear : Verdict::same;
}

Pairing pairing_of(const std::vector<Results>& a, const std::vector<Results>& b) {
    const auto in_turns = [](const Results& run) { return run.turns; };
    if (a.size() == b.size() && std::all_of(a.begin(), a.end(), in_turns) &&
        std::all_of(b.begin(), b.end(), in_turns)) {
        return Pairing::turns;
    }
    return std::min(a.size(), b.size()) > 1 ? Pairing::runs : Pairing::rounds;
}

/// Cases of one name must have done the same. A parameter that one side doesn't know is newer than that side.
void require_same_parameters(const CaseResult& a, const CaseResult& b) {
    for (const auto& [key, value] : a.parameters) {
        const auto found = std::find_if(b.parameters.begin(), b.parameters.end(),
                                        [&key = key](const auto& parameter) { return parameter.first == key; });
        core::require(found == b.parameters.end() || found->second == value, core::ExitCode::usage,
                      "{}: {} differs ({} in A, {} in B); compare runs of the same deck", a.name, key, value,
                      found == b.parameters.end() ? "" : found->second);
    }
}

std::string describe_side(const char* name, const std::vector<Results>& runs) {
    const Results& first = runs.front();
    const auto text = [&](const char* key) {
        return first.program.contains(key) && first.program[key].is_string() ? first.program[key].get<std::string>()
                                                                             : std::string("unknown");
    };
    return fmt::format("{}: {} from {} on, revision {}, {}", name, core::counted(runs.size(), "run"), first.started,
                       text("git_revision"), text("compiler"));
}

std::vector<LimitChange> limits_of(const std::vector<Results>& a, const std::vector<Results>& b) {
    std::vector<LimitChange> limits;
    for (const CaseResult& result : a.front().cases) {
        for (const Figure& figure : result.figures) {
            const CaseResult* const other = b.front().find(result.name);
            const Figure* const after = other == nullptr ? nullptr : other->find(figure.name);
            if (result.benchmark == "machine" && after != nullptr && figure.value > 0) {
                limits.push_back({result.name + "/" + figure.name, 100 * (after->value / figure.value - 1)});
            }
        }
    }
    return limits;
}

/// What differs between the sides besides the program.
std::vector<std::string> notes_on(const std::vector<Results>& a, const std::vector<Results>& b) {
    std::vector<std::string> notes;
    const auto text = [](const Results& run, const char* object, const char* key) {
        const auto rank = run.ranks.empty() ? nlohmann::ordered_json::object() : run.ranks.front();
        return rank.contains(object) && rank[object].contains(key) ? rank[object][key].dump() : std::string("unknown");
    };
    for (const auto& [object, key] : {std::pair{"cpu", "model"},
                                      {"cpu", "microcode"},
                                      {"kernels", "bf16"},
                                      {"placement", "threads"},
                                      {"placement", "bound"},
                                      {"system", "kernel"}}) {
        const std::string of_a = text(a.front(), object, key);
        const std::string of_b = text(b.front(), object, key);
        if (of_a != of_b) {
            notes.push_back(fmt::format("{}.{} differs: {} in A, {} in B", object, key, of_a, of_b));
        }
    }
    if (pairing_of(a, b) == Pairing::rounds) {
        notes.emplace_back(
            "one run is compared with one: another run of the same build may differ by more than the rounds of a run "
            "do; "
            "several runs on each side, or runs in turns, can tell");
    }
    if (a.front().ranks.size() != b.front().ranks.size()) {
        notes.push_back(fmt::format("ranks differ: {} in A, {} in B", a.front().ranks.size(), b.front().ranks.size()));
    }
    for (const auto& [side, runs] : {std::pair{"A", &a}, {"B", &b}}) {
        for (const std::string& warning : runs->front().warnings) {
            notes.push_back(fmt::format("{}: {}", side, warning));
        }
    }
    return notes;
}

}  // namespace

bool Comparison::fails(bool strict) const {
    return std::any_of(changes.begin(), changes.end(), [strict](const Change& change) {
        return change.verdict == Verdict::slower || change.verdict == Verdict::missing ||
               (strict && change.verdict == Verdict::unclear);
    });
}

Comparison compare(const std::vector<Results>& a, const std::vector<Results>& b, double threshold) {
    Comparison comparison;
    comparison.pairing = pairing_of(a, b);
    comparison.sides = {describe_side("A", a), describe_side("B", b)};
    comparison.limits = limits_of(a, b);
    comparison.notes = notes_on(a, b);
    std::vector<double> p;
    for (const CaseResult& result : a.front().cases) {
        if (const CaseResult* const other = b.front().find(result.name)) {
            require_same_parameters(result, *other);
        }
        for (const Figure& figure : result.figures) {
            if (figure.better == Better::neither || figure.samples.empty()) {
                continue;
            }
            Change& change = comparison.changes.emplace_back();
            const auto blocks_a = blocks_of(a, result.name, figure.name, comparison.pairing);
            const auto blocks_b = blocks_of(b, result.name, figure.name, comparison.pairing);
            if (blocks_b.empty()) {
                change.verdict = Verdict::missing;
            } else if (comparison.pairing == Pairing::turns && blocks_a.size() == blocks_b.size()) {
                change = change_of_pairs(blocks_a, blocks_b);
            } else {
                const bool runs = comparison.pairing == Pairing::runs && std::min(blocks_a.size(), blocks_b.size()) > 1;
                change = change_of(blocks_a, blocks_b, runs ? Pairing::runs : Pairing::rounds);
            }
            change.figure = result.name + "/" + figure.name;
            p.push_back(change.p);
        }
    }
    core::require(std::any_of(comparison.changes.begin(), comparison.changes.end(),
                              [](const Change& change) { return change.verdict != Verdict::missing; }),
                  core::ExitCode::usage,
                  "the results have no figure in common (cases of A: {}, of B: {}); compare runs of the same deck",
                  a.front().cases.size(), b.front().cases.size());
    p = holm(p);
    for (std::size_t i = 0; i < p.size(); ++i) {
        Change& change = comparison.changes[i];
        change.p = p[i];
        if (change.verdict != Verdict::missing) {
            change.verdict = verdict_of(change, threshold);
        }
    }
    return comparison;
}

std::string to_text(const Comparison& comparison, double threshold) {
    std::string text;
    for (const std::string& side : comparison.sides) {
        text += side + "\n";
    }
    text +=
        fmt::format("{:<46} {:>9} {:>9} {:>8} {:>8}\n", "time of B over that of A", "measured", "own", "p", "noise");
    for (const Change& change : comparison.changes) {
        if (change.verdict == Verdict::missing) {
            text += fmt::format("{:<46} {:>9}  MISSING in B\n", change.figure, "");
            continue;
        }
        const char* const verdict = change.verdict == Verdict::slower    ? "SLOWER"
                                    : change.verdict == Verdict::faster  ? "faster"
                                    : change.verdict == Verdict::machine ? "machine"
                                    : change.verdict == Verdict::unclear ? "unclear"
                                                                         : "same";
        text += fmt::format("{:<46} {:>+8.1f}% {:>+8.1f}% {:>8.4f} {:>7.1f}%  {}\n", change.figure, change.raw_percent,
                            change.percent, change.p, change.noise_percent, verdict);
    }
    for (const LimitChange& limit : comparison.limits) {
        text += fmt::format("{:<46} {:>+8.1f}%  a limit of the machine: its rate\n", limit.name, limit.percent);
    }
    text += fmt::format(
        "own: what a change of the machine's limits, measured beside, doesn't explain. Significant: p < {}, at least "
        "{} %. Compared: {}.\n",
        significance, threshold,
        comparison.pairing == Pairing::turns  ? "rounds in turns"
        : comparison.pairing == Pairing::runs ? "runs"
                                              : "rounds");
    for (const std::string& note : comparison.notes) {
        text += "note: " + note + "\n";
    }
    return text;
}

}  // namespace moesaic::measure
