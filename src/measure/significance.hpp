// Tests: is a difference more than chance?
#pragma once

#include <vector>

namespace moesaic::measure {

/// Two-sided p-value of the Mann-Whitney U test (Mann & Whitney 1947), exact for values without ties and at most 20 on
/// each side, else with the normal approximation and the correction for ties. Sides must not be empty.
[[nodiscard]] double mann_whitney(const std::vector<double>& a, const std::vector<double>& b);

/// Two-sided p-value of the Wilcoxon signed-rank test (Wilcoxon 1945) that differences of pairs are symmetric about 0;
/// exact for at most 20 without ties. Zeros are left out.
[[nodiscard]] double signed_rank(const std::vector<double>& differences);

/// Two-sided p-value of the t test for unequal variances (Welch 1947) that the means of two normal populations are the
/// same: for the few values of whole runs, of which tests by ranks could tell nothing. Two values at least on each
/// side.
[[nodiscard]] double welch(const std::vector<double>& a, const std::vector<double>& b);

/// Hodges-Lehmann estimate of how much b exceeds a: the median of all differences of pairs.
[[nodiscard]] double shift(const std::vector<double>& a, const std::vector<double>& b);

/// Hodges-Lehmann estimate of the centre of differences: the median of all means of two of them.
[[nodiscard]] double center(const std::vector<double>& differences);

/// p-values adjusted for their number (Holm 1979), in the same order.
[[nodiscard]] std::vector<double> holm(const std::vector<double>& p);

}  // namespace moesaic::measure
