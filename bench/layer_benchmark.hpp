// moesaic bench layer: forward and backward of one expert layer with LoRA.
#pragma once

#include "bench/benchmark.hpp"
#include "bench/routing.hpp"
#include "bench/shapes.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/expert_backend.hpp"

#include <memory>
#include <string>
#include <vector>

namespace moesaic::bench {

struct LayerBenchmarkSettings {
    LayerShape shape;
    std::vector<index_t> tokens;
    Routing routing = Routing::uniform;
    index_t lora_rank = 0;  ///< 0: frozen experts alone
    ops::Activations activations = ops::Activations::retain;
    index_t layers = 0;        ///< copies that take turns, so that weights come from memory; 0: enough for that
    index_t memory_bytes = 0;  ///< what this rank may use
    index_t cache_bytes = 0;   ///< of its last-level caches
};

/// Every rank has whole layers of its own.
class LayerBenchmark final : public Benchmark {
public:
    /// Collective. Builds the layers and adds the errors of the first, against FP32, to the checks of the case.
    /// Throws with ExitCode::out_of_resources what does not fit. `kernels` must outlive the object.
    LayerBenchmark(Console& console, const kernels::KernelSet& kernels, const LayerBenchmarkSettings& settings);
    ~LayerBenchmark() override;

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    struct Setup;
    struct Pass;

    mpi::Communicator world_;
    LayerBenchmarkSettings settings_;
    std::unique_ptr<Setup> setup_;
    std::vector<std::unique_ptr<Pass>> passes_;  ///< of every number of tokens
};

}  // namespace moesaic::bench
