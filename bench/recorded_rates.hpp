// What results of benchmarks say about the speed of a machine.
#pragma once

#include "measure/results.hpp"
#include "train/machine_rates.hpp"

#include <string>

namespace moesaic::bench {

/// The limits of a result of benchmarks, and the efficiency of its training step if it has one, for products of all
/// kinds; otherwise usual ones. Rates of exchange are usual ones. Throws a usage error if no case has limits of the
/// machine. `file` is its name in messages.
[[nodiscard]] train::MachineRates recorded_rates(const measure::Results& results, const std::string& file);

}  // namespace moesaic::bench
