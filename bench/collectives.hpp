// moesaic bench collectives: what training exchanges between ranks, beside a ping-pong over the same transport.
#pragma once

#include "bench/benchmark.hpp"
#include "core/matrix.hpp"

#include <memory>
#include <vector>

namespace moesaic::bench {

using core::index_t;

struct CollectiveSettings {
    std::vector<index_t> bytes;  ///< message sizes; what they are the size of: docs/benchmarking.md
};

/// What ranks exchange, at several sizes. The group has two ranks or more.
class CollectiveBenchmark final : public Benchmark {
public:
    /// Collective. Runs every operation at every size and adds the share of wrong elements to the checks of the case.
    CollectiveBenchmark(Console& console, const CollectiveSettings& settings);
    ~CollectiveBenchmark() override;

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    class Exchange;

    mpi::Communicator world_;
    std::vector<std::unique_ptr<Exchange>> exchanges_;  ///< of every size
};

}  // namespace moesaic::bench
