// moesaic bench step: whole training steps on random tokens.
#pragma once

#include "bench/machine_report.hpp"
#include "bench/report.hpp"
#include "kernels/gemm.hpp"
#include "model/decoder.hpp"
#include "mpi/process_grid.hpp"
#include "train/batches.hpp"

namespace moesaic::bench {

using core::index_t;

/// Collective. Checks a step of a small model with the same widths, adds the errors to the report, and throws with
/// ExitCode::verification_failed if they are too large.
void verify_step(Report& report, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid);

struct StepBenchmarkSettings {
    train::BatchSettings batches;
    index_t length = 0;  ///< tokens per sequence
    index_t repeat = 0;
};

/// Collective. Overwrites the LoRA factors of `decoder` with random ones and measures training steps.
void run_step_benchmark(Report& report, model::Decoder<core::bf16>& decoder, const kernels::KernelSet& kernels,
                        const mpi::ProcessGrid& grid, const MachineLimits& machine,
                        const StepBenchmarkSettings& settings);

}  // namespace moesaic::bench
