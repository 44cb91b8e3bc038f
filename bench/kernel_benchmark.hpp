// moesaic bench kernels: single matrix products in BF16.
#pragma once

#include "bench/benchmark.hpp"
#include "kernels/kernel_set.hpp"

#include <memory>
#include <vector>

namespace moesaic::bench {

struct KernelSettings {
    std::vector<index_t> rows;  ///< values of M
    index_t n = 0;              ///< of the weights [N, K]
    index_t k = 0;
    bool cold = false;         ///< weights come from memory, else from the caches as far as they fit
    index_t memory_bytes = 0;  ///< what this rank may use
    index_t cache_bytes = 0;   ///< of its last-level caches
};

/// x W^T (forward), dy W (backward) and dy^T x (contraction over tokens), and oneDNN's x W^T with packed weights beside
/// them.
class KernelBenchmark final : public Benchmark {
public:
    /// Collective. Computes everything once and adds the errors to the checks of the case. Throws with
    /// ExitCode::out_of_resources what does not fit. `kernels` must outlive the object.
    KernelBenchmark(Console& console, const kernels::KernelSet& kernels, const KernelSettings& settings);
    ~KernelBenchmark() override;

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    struct Weights;
    struct Products;

    mpi::Communicator world_;
    const kernels::KernelSet& kernels_;
    KernelSettings settings_;
    std::unique_ptr<Weights> weights_;
    std::vector<std::unique_ptr<Products>> products_;  ///< of every M
    std::size_t next_copy_ = 0;                        ///< of the weights
};

}  // namespace moesaic::bench
