#include "measure/statistics.hpp"

#include <algorithm>
#include <cmath>

namespace moesaic::measure {
namespace {

/// The largest r for which the r smallest and the r largest samples may be left out: [sorted[r], sorted[n - 1 - r]]
/// holds the median with 95 % if at most 2.5 % of the draws have r or fewer samples below it, binomial (n, 1/2).
std::size_t samples_to_leave_out(std::size_t n) {
    const auto count = static_cast<double>(n);
    constexpr std::size_t many = 1000;  // 2^-n vanishes beyond; the normal distribution is close enough long before
    if (n > many) {
        return static_cast<std::size_t>(0.5 * count - 0.98 * std::sqrt(count)) - 1;
    }
    double term = std::exp2(-count);  // probability of exactly r samples below the median
    double below = term;
    std::size_t r = 0;
    while (below <= 0.025) {
        ++r;
        term *= (count - static_cast<double>(r) + 1) / static_cast<double>(r);
        below += term;
    }
    return r > 0 ? r - 1 : 0;
}

}  // namespace

Summary summarize(std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    const std::size_t n = samples.size();
    const std::size_t left_out = samples_to_leave_out(n);
    return {.n = static_cast<index_t>(n),
            .min = samples.front(),
            .median = 0.5 * (samples[(n - 1) / 2] + samples[n / 2]),
            .max = samples.back(),
            .low = samples[left_out],
            .high = samples[n - 1 - left_out]};
}

double best_of(std::vector<double> rates) {
    std::sort(rates.begin(), rates.end());
    const auto best = static_cast<std::ptrdiff_t>((rates.size() + 3) / 4);
    return summarize({rates.end() - best, rates.end()}).median;
}

std::vector<double> rates(double numerator, const std::vector<double>& times) {
    std::vector<double> values(times.size());
    std::transform(times.begin(), times.end(), values.begin(), [=](double time) { return numerator / time; });
    return values;
}

std::vector<double> scaled(double factor, const std::vector<double>& samples) {
    std::vector<double> values(samples.size());
    std::transform(samples.begin(), samples.end(), values.begin(), [=](double value) { return factor * value; });
    return values;
}

}  // namespace moesaic::measure
