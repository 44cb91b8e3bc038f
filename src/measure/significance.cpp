#include "measure/significance.hpp"

#include "measure/statistics.hpp"

#include <boost/math/distributions/students_t.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesaic::measure {
namespace {

constexpr std::size_t most_for_exact = 20;  // values on a side

/// Of a two-sided test whose statistic is `distance` from its mean; the continuity correction is 0.5.
double normal_p(double distance, double variance) {
    return variance <= 0 ? 1 : std::erfc(std::max(0.0, distance - 0.5) / std::sqrt(2 * variance));
}

/// Twice the share of the arrangements whose statistic is at most `extreme`.
double exact_p(const std::vector<double>& counts, double extreme) {
    const auto end = counts.begin() + static_cast<std::ptrdiff_t>(extreme) + 1;
    return std::min(1.0,
                    2 * std::accumulate(counts.begin(), end, 0.0) / std::accumulate(counts.begin(), counts.end(), 0.0));
}

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

/// Number of sets of the ranks 1 to n for each sum of ranks.
std::vector<double> rank_sums(std::size_t n) {
    std::vector<double> counts(n * (n + 1) / 2 + 1, 0.0);
    counts[0] = 1;
    for (std::size_t rank = 1; rank <= n; ++rank) {
        for (std::size_t sum = counts.size() - 1; sum >= rank; --sum) {
            counts[sum] += counts[sum - rank];
        }
    }
    return counts;
}

}  // namespace

double mann_whitney(const std::vector<double>& a, const std::vector<double>& b) {
    const double u = u_statistic(a, b);
    std::vector<double> all = a;
    all.insert(all.end(), b.begin(), b.end());
    const double ties = tie_term(all);
    if (ties == 0 && a.size() <= most_for_exact && b.size() <= most_for_exact) {
        const auto pairs = static_cast<double>(a.size() * b.size());
        return exact_p(arrangements(a.size(), b.size()), std::min(u, pairs - u));
    }
    const auto m = static_cast<double>(a.size());
    const auto n = static_cast<double>(b.size());
    const double variance = m * n / 12 * (m + n + 1 - ties / ((m + n) * (m + n - 1)));
    return normal_p(std::abs(u - m * n / 2), variance);
}

double signed_rank(const std::vector<double>& differences) {
    std::vector<double> sizes;
    for (const double difference : differences) {
        if (difference != 0) {
            sizes.push_back(std::abs(difference));
        }
    }
    std::sort(sizes.begin(), sizes.end());
    double sum = 0;  // of the ranks of positive differences; equal sizes have the mean of their ranks
    for (const double difference : differences) {
        if (difference > 0) {
            const auto [first, last] = std::equal_range(sizes.begin(), sizes.end(), difference);
            sum += static_cast<double>((first - sizes.begin()) + (last - sizes.begin()) + 1) / 2;
        }
    }
    const double ties = tie_term(sizes);
    const auto n = static_cast<double>(sizes.size());
    const double mean = n * (n + 1) / 4;
    if (ties == 0 && sizes.size() <= most_for_exact) {
        return exact_p(rank_sums(sizes.size()), std::min(sum, 2 * mean - sum));
    }
    return normal_p(std::abs(sum - mean), mean * (2 * n + 1) / 6 - ties / 48);
}

double welch(const std::vector<double>& a, const std::vector<double>& b) {
    const auto mean_of = [](const std::vector<double>& values) {
        return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    };
    /// Variance of the mean.
    const auto variance_of = [](const std::vector<double>& values, double mean) {
        const double squares = std::accumulate(values.begin(), values.end(), 0.0, [mean](double sum, double value) {
            return sum + (value - mean) * (value - mean);
        });
        const auto n = static_cast<double>(values.size());
        return squares / (n - 1) / n;
    };
    const double mean_a = mean_of(a);
    const double mean_b = mean_of(b);
    const double of_a = variance_of(a, mean_a);
    const double of_b = variance_of(b, mean_b);
    if (of_a + of_b <= 0) {
        return mean_a == mean_b ? 1 : 0;
    }
    const double degrees =
        (of_a + of_b) * (of_a + of_b) /
        (of_a * of_a / static_cast<double>(a.size() - 1) + of_b * of_b / static_cast<double>(b.size() - 1));
    const double t = std::abs(mean_a - mean_b) / std::sqrt(of_a + of_b);
    return 2 * boost::math::cdf(boost::math::complement(boost::math::students_t(degrees), t));
}

double shift(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> differences;
    for (const double x : a) {
        for (const double y : b) {
            differences.push_back(y - x);
        }
    }
    return summarize(std::move(differences)).median;
}

double center(const std::vector<double>& differences) {
    std::vector<double> means;
    for (std::size_t i = 0; i < differences.size(); ++i) {
        for (std::size_t j = i; j < differences.size(); ++j) {
            means.push_back((differences[i] + differences[j]) / 2);
        }
    }
    return summarize(std::move(means)).median;
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

}  // namespace moesaic::measure
