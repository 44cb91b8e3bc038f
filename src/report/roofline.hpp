// The roofline plot: what was reached, below what the machine can do.
#pragma once

#include "measure/results.hpp"
#include "report/document.hpp"

#include <optional>

namespace moesaic::report {

/// Ceilings are the machine's limits, measured in the same run. Points are matrix products and expert layers, at the
/// operations per byte that they can't do without: base weights once, and for products the other operands. Nothing
/// without a measurement of the machine. Williams, Waterman, Patterson (2009), "Roofline".
[[nodiscard]] std::optional<Section> roofline_section(const measure::Results& results);

}  // namespace moesaic::report
