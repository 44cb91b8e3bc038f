#include "bench/compare.hpp"

#include "bench/significance.hpp"
#include "core/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::bench {
namespace {

constexpr double significance = 0.01;

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
        // A run without rounds has its repetitions instead.
        const std::vector<index_t> alone(figure->samples.size(), 1);
        std::size_t begin = 0;
        for (const index_t repetitions : result->rounds.size() > 1 ? result->rounds : alone) {
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

/// Of rounds in turns: both of a pair share the mood of the machine.
Change change_of_pairs(const std::vector<Block>& a, const std::vector<Block>& b) {
    std::vector<double> differences(a.size());
    std::transform(b.begin(), b.end(), a.begin(), differences.begin(),
                   [](const Block& after, const Block& before) { return after.log_time - before.log_time; });
    const double percent = 100 * std::expm1(center(differences));
    return {.percent = percent,
            .raw_percent = percent,
            .p = signed_rank(differences),
            .noise_percent = noise_percent(std::move(differences))};
}

/// The change that is nearest to none among those with and without the limits of the machine taken into account. Work
/// that is bound by computing takes as much longer as the peak is lower, and likewise for memory.
Change change_of(const std::vector<Block>& a, const std::vector<Block>& b) {
    const std::array explanations = {+[](const Block& block) { return block.log_time; },
                                     +[](const Block& block) { return block.log_time + block.log_peak; },
                                     +[](const Block& block) { return block.log_time + block.log_read; }};
    Change change;
    const auto times = [](const std::vector<Block>& blocks) {
        return values_of(blocks, [](const Block& block) { return block.log_time; });
    };
    change.noise_percent = std::max(noise_percent(times(a)), noise_percent(times(b)));
    double smallest = 0;
    bool agree = true;  // on the direction
    change.p = 0;
    for (const auto& explanation : explanations) {
        const std::vector<double> of_a = values_of(a, explanation);
        const std::vector<double> of_b = values_of(b, explanation);
        const double logarithm = shift(of_a, of_b);
        change.p = std::max(change.p, mann_whitney(of_a, of_b));
        if (&explanation == explanations.data()) {
            change.raw_percent = 100 * std::expm1(logarithm);
            smallest = logarithm;
        } else {
            agree = agree && logarithm * smallest > 0;
            smallest = std::abs(logarithm) < std::abs(smallest) ? logarithm : smallest;
        }
    }
    change.percent = agree ? 100 * std::expm1(smallest) : 0;
    return change;
}

Verdict verdict_of(const Change& change, double threshold) {
    if (std::abs(change.percent) >= threshold && change.p < significance) {
        return change.percent > 0 ? Verdict::slower : Verdict::faster;
    }
    return change.noise_percent >= threshold ? Verdict::unclear : Verdict::same;
}

Pairing pairing_of(const std::vector<Results>& a, const std::vector<Results>& b) {
    constexpr std::size_t enough_runs = 7;
    const auto in_turns = [](const Results& run) { return run.turns; };
    if (a.size() == b.size() && std::all_of(a.begin(), a.end(), in_turns) &&
        std::all_of(b.begin(), b.end(), in_turns)) {
        return Pairing::turns;
    }
    return std::min(a.size(), b.size()) >= enough_runs ? Pairing::runs : Pairing::rounds;
}

/// What differs between the sides besides the program.
std::vector<std::string> notes_on(const std::vector<Results>& a, const std::vector<Results>& b) {
    std::vector<std::string> notes;
    const auto text = [](const Results& run, const char* object, const char* key) {
        const auto& rank = run.ranks.at(0);
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

bool Comparison::has_slower() const {
    return std::any_of(changes.begin(), changes.end(),
                       [](const Change& change) { return change.verdict == Verdict::slower; });
}

Comparison compare(const std::vector<Results>& a, const std::vector<Results>& b, double threshold) {
    Comparison comparison;
    comparison.pairing = pairing_of(a, b);
    comparison.notes = notes_on(a, b);
    std::vector<double> p;
    for (const CaseResult& result : a.front().cases) {
        for (const Figure& figure : result.figures) {
            if (figure.better == Better::neither) {
                continue;
            }
            const auto blocks_a = blocks_of(a, result.name, figure.name, comparison.pairing);
            const auto blocks_b = blocks_of(b, result.name, figure.name, comparison.pairing);
            if (blocks_b.empty()) {
                comparison.notes.push_back(fmt::format("{}/{} is in A only", result.name, figure.name));
                continue;
            }
            const bool pairs = comparison.pairing == Pairing::turns && blocks_a.size() == blocks_b.size();
            comparison.changes.push_back(pairs ? change_of_pairs(blocks_a, blocks_b) : change_of(blocks_a, blocks_b));
            comparison.changes.back().figure = result.name + "/" + figure.name;
            p.push_back(comparison.changes.back().p);
        }
    }
    core::require(!comparison.changes.empty(), core::ExitCode::usage,
                  "the results have no figure in common (cases of A: {}, of B: {}); compare runs of the same deck",
                  a.front().cases.size(), b.front().cases.size());
    p = holm(p);
    for (std::size_t i = 0; i < p.size(); ++i) {
        comparison.changes[i].p = p[i];
        comparison.changes[i].verdict = verdict_of(comparison.changes[i], threshold);
    }
    return comparison;
}

std::string to_text(const Comparison& comparison, double threshold) {
    std::string text =
        fmt::format("{:<46} {:>9} {:>9} {:>8} {:>8}\n", "time of B over that of A", "measured", "own", "p", "noise");
    for (const Change& change : comparison.changes) {
        const char* const verdict = change.verdict == Verdict::slower    ? "SLOWER"
                                    : change.verdict == Verdict::faster  ? "faster"
                                    : change.verdict == Verdict::unclear ? "unclear"
                                                                         : "same";
        text += fmt::format("{:<46} {:>+8.1f}% {:>+8.1f}% {:>8.4f} {:>7.1f}%  {}\n", change.figure, change.raw_percent,
                            change.percent, change.p, change.noise_percent, verdict);
    }
    text += fmt::format(
        "own: what the limits of the machine, measured beside, don't explain. Significant: p < {}, at least "
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

}  // namespace moesaic::bench
