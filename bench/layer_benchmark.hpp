// moesaic bench layer: forward and backward of one expert layer with LoRA.
#pragma once

#include "bench/report.hpp"
#include "bench/shapes.hpp"
#include "kernels/gemm.hpp"
#include "model/expert_backend.hpp"

#include <string>
#include <vector>

namespace moesaic::bench {

struct LayerBenchmarkSettings {
    LayerShape shape;
    std::vector<index_t> tokens;
    std::string routing;
    index_t lora_rank = 0;  ///< 0: frozen experts alone
    model::Activations activations = model::Activations::retain;
    index_t layers = 0;  ///< copies that take turns, so that weights come from memory; 0: enough for that
    index_t repeat = 0;
    index_t memory_bytes = 0;  ///< what this rank may use
};

/// Collective. Verifies the layer against FP32, then measures; every rank has a whole layer of its own. Throws with
/// ExitCode::out_of_resources what does not fit, with ExitCode::verification_failed what is wrong.
void run_layer_benchmark(Report& report, const kernels::KernelSet& kernels, const LayerBenchmarkSettings& settings);

}  // namespace moesaic::bench
