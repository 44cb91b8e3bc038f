// moesaic bench step: whole training steps on random tokens.
#pragma once

#include "bench/benchmark.hpp"
#include "kernels/kernel_set.hpp"
#include "model/decoder.hpp"
#include "mpi/process_grid.hpp"
#include "train/batches.hpp"

#include <memory>

namespace moesaic::bench {

using core::index_t;

struct StepBenchmarkSettings {
    train::BatchSettings batches = {};
    index_t length = 0;                 ///< tokens per sequence
    double planned_bytes = 0;           ///< of memory of a rank, to print it beside what is used
    std::uint64_t resident_before = 0;  ///< bytes that the process had before it loaded the model
};

/// Collective. Checks a step of a small model with the same widths and adds the errors to the checks of the case.
void verify_step(Console& console, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid);

/// Steps of all ranks, which train one model together.
class StepBenchmark final : public Benchmark {
public:
    /// Collective. Overwrites the LoRA factors of `decoder` with random ones. `kernels` and `grid` must outlive the
    /// object.
    StepBenchmark(std::unique_ptr<model::Decoder<core::bf16>> decoder, const kernels::KernelSet& kernels,
                  const mpi::ProcessGrid& grid, const StepBenchmarkSettings& settings);
    ~StepBenchmark() override;

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    struct Samples;
    struct Run;
    void report_parts(Console& console, const measure::MachineLimits& limits) const;
    void report_ranks(Console& console) const;

    const mpi::ProcessGrid& grid_;
    StepBenchmarkSettings settings_;
    std::unique_ptr<Run> run_;
    std::unique_ptr<Samples> samples_;
    index_t steps_ = 0;  ///< warm-ups too
};

}  // namespace moesaic::bench
