// Does a training step compute what the same step computes in FP32 on one rank?
#pragma once

#include "kernels/kernel_set.hpp"
#include "measure/results.hpp"
#include "model/decoder.hpp"
#include "mpi/process_grid.hpp"

#include <vector>

namespace moesaic::bench {

class Console;

using core::index_t;

/// Errors above this are mistakes: rounding in BF16 through two layers and back errs by one or two percent.
inline constexpr double step_error_bound = 0.05;

/// What one step gave, on rank 0.
struct StepOutput {
    std::vector<float> log_probabilities;  ///< of all targets
    std::vector<float> grad_lora;          ///< of all factors, reduced over ranks
};

struct StepErrors {
    double log_probability = 0;  ///< root of the mean square of the differences, relative to how much the values vary
    double grad_lora = 0;        ///< || found - expected || / || expected ||
};

[[nodiscard]] StepErrors compare(const StepOutput& found, const StepOutput& expected);
/// The errors as named checks.
[[nodiscard]] std::vector<measure::Check> checks_of(const StepErrors& errors);

/// A model small enough to be computed in FP32, in which every kind of layer and all widths are as in `architecture`:
/// few layers and tokens of the vocabulary, and as few experts as a token chooses and groups of ranks need. Tokens
/// choose all of them, so that no rounding error changes the choice.
[[nodiscard]] model::Architecture model_of_check(const model::Architecture& architecture, index_t expert_groups);

/// Bytes that `measure_step_errors` needs on rank 0, which needs most.
[[nodiscard]] double memory_of_step_check(const model::Architecture& architecture,
                                          const model::DecoderSettings& settings, index_t expert_groups);

/// Collective. One step of `model_of_check` with random weights on all ranks of `grid`, compared with the same step on
/// rank 0 alone, in FP32 on portable kernels. The result is valid on rank 0.
[[nodiscard]] StepErrors measure_step_errors(const model::Architecture& architecture,
                                             const model::DecoderSettings& settings, const kernels::KernelSet& kernels,
                                             const mpi::ProcessGrid& grid);

/// Collective. Adds these errors to the checks of the case, and prints them.
void verify_step(Console& console, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid);

}  // namespace moesaic::bench
