// moesaic bench kernels: single matrix products in BF16.
#pragma once

#include "bench/report.hpp"
#include "kernels/gemm.hpp"

#include <vector>

namespace moesaic::bench {

struct KernelSettings {
    std::vector<index_t> rows;  ///< values of M
    index_t n = 0;              ///< of the weights [N, K]
    index_t k = 0;
    bool cold = false;  ///< weights come from memory, else from the caches as far as they fit
    index_t repeat = 0;
    index_t memory_bytes = 0;  ///< what this rank may use
};

/// Collective. Verifies and measures x W^T (forward), dy W (backward) and dy^T x (contraction over tokens), and
/// oneDNN's x W^T with packed weights beside them. Throws with ExitCode::verification_failed before it measures what is
/// wrong.
void run_kernel_benchmark(Report& report, const kernels::KernelSet& kernels, const KernelSettings& settings);

}  // namespace moesaic::bench
