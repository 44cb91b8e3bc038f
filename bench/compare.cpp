#include "bench/compare.hpp"

#include "core/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace moesaic::bench {
namespace {

constexpr double significance = 0.05;

/// U of b over a: pairs in which b is larger, ties count half.
double u_statistic(const std::vector<double>& a, const std::vector<double>& b) {
    double u = 0;
    for (const double x : a) {
        for (const double y : b) {
            u += y > x ? 1 : y == x ? 0.5 : 0;
        }
    }
    return u;
}

/// Number of arrangements of m and n values for each U, by the recursion over which side has the largest value.
std::vector<double> arrangements(std::size_t m, std::size_t n) {
    std::vector<std::vector<double>> counts(n + 1, std::vector<double>(m * n + 1, 0.0));  // for the present m
    for (auto& row : counts) {
        row[0] = 1;  // m = 0
    }
    for (std::size_t i = 1; i <= m; ++i) {
        for (std::size_t j = 1; j <= n; ++j) {
            // The largest value is one of b, which exceeds all i of a, or one of a.
            std::vector<double> next = counts[j];
            for (std::size_t u = i; u < next.size(); ++u) {
                next[u] += counts[j - 1][u - i];
            }
            counts[j] = std::move(next);
        }
    }
    return counts[n];
}

double exact_p(double u, std::size_t m, std::size_t n) {
    const std::vector<double> counts = arrangements(m, n);
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    const auto extreme = static_cast<std::size_t>(std::min(u, static_cast<double>(m * n) - u));
    const double tail = std::accumulate(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(extreme) + 1, 0.0);
    return std::min(1.0, 2 * tail / total);
}

/// Sum of t^3 - t over groups of t equal values.
double tie_term(std::vector<double> all) {
    std::sort(all.begin(), all.end());
    double sum = 0;
    for (auto begin = all.begin(); begin != all.end();) {
        const auto end = std::upper_bound(begin, all.end(), *begin);
        const auto t = static_cast<double>(end - begin);
        sum += t * t * t - t;
        begin = end;
    }
    return sum;
}

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

/// One block per run, or per round of each run.
std::vector<Block> blocks_of(const std::vector<Results>& side, const std::string& case_name, const std::string& name,
                             bool by_run) {
    std::vector<Block> blocks;
    for (const Results& run : side) {
        const CaseResult* result = run.find(case_name);
        const Figure* figure = result == nullptr ? nullptr : result->find(name);
        if (figure == nullptr || figure->samples.empty()) {
            continue;
        }
        if (by_run) {
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

double noise_percent(const std::vector<Block>& blocks) {
    std::vector<double> times = values_of(blocks, [](const Block& block) { return block.log_time; });
    std::sort(times.begin(), times.end());
    const std::size_t cut = times.size() / 20;
    return 50 * std::expm1(times[times.size() - 1 - cut] - times[cut]);
}

/// The change that is nearest to none among those with and without the limits of the machine taken into account. Work
/// that is bound by computing takes as much longer as the peak is lower, and likewise for memory.
Change change_of(const std::vector<Block>& a, const std::vector<Block>& b) {
    const std::array explanations = {+[](const Block& block) { return block.log_time; },
                                     +[](const Block& block) { return block.log_time + block.log_peak; },
                                     +[](const Block& block) { return block.log_time + block.log_read; }};
    Change change;
    change.noise_percent = std::max(noise_percent(a), noise_percent(b));
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

double mann_whitney(const std::vector<double>& a, const std::vector<double>& b) {
    const double u = u_statistic(a, b);
    std::vector<double> all = a;
    all.insert(all.end(), b.begin(), b.end());
    const double ties = tie_term(all);
    constexpr std::size_t most_for_exact = 20;
    if (ties == 0 && a.size() <= most_for_exact && b.size() <= most_for_exact) {
        return exact_p(u, a.size(), b.size());
    }
    const auto m = static_cast<double>(a.size());
    const auto n = static_cast<double>(b.size());
    const double variance = m * n / 12 * (m + n + 1 - ties / ((m + n) * (m + n - 1)));
    if (variance <= 0) {
        return 1;  // all values are equal
    }
    const double distance = std::max(0.0, std::abs(u - m * n / 2) - 0.5);  // continuity correction
    return std::erfc(distance / std::sqrt(2 * variance));
}

double shift(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> differences;
    for (const double x : a) {
        for (const double y : b) {
            differences.push_back(y - x);
        }
    }
    return median_of(std::move(differences));
}

std::vector<double> holm(const std::vector<double>& p) {
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return p[i] < p[j]; });
    std::vector<double> adjusted(p.size());
    double largest = 0;
    for (std::size_t k = 0; k < order.size(); ++k) {
        largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - k) * p[order[k]]));
        adjusted[order[k]] = largest;
    }
    return adjusted;
}

bool Comparison::has_slower() const {
    return std::any_of(changes.begin(), changes.end(),
                       [](const Change& change) { return change.verdict == Verdict::slower; });
}

Comparison compare(const std::vector<Results>& a, const std::vector<Results>& b, double threshold) {
    constexpr std::size_t enough_runs = 5;
    Comparison comparison;
    comparison.by_run = std::min(a.size(), b.size()) >= enough_runs;
    comparison.notes = notes_on(a, b);
    std::vector<double> p;
    for (const CaseResult& result : a.front().cases) {
        for (const Figure& figure : result.figures) {
            if (figure.better == Better::neither) {
                continue;
            }
            const auto blocks_a = blocks_of(a, result.name, figure.name, comparison.by_run);
            const auto blocks_b = blocks_of(b, result.name, figure.name, comparison.by_run);
            if (blocks_b.empty()) {
                comparison.notes.push_back(fmt::format("{}/{} is in A only", result.name, figure.name));
                continue;
            }
            comparison.changes.push_back(change_of(blocks_a, blocks_b));
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
        "{} %. Compared by {}.\n",
        significance, threshold, comparison.by_run ? "run" : "round");
    for (const std::string& note : comparison.notes) {
        text += "note: " + note + "\n";
    }
    return text;
}

}  // namespace moesaic::bench
