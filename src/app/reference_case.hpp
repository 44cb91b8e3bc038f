// A reference case: a small model with the numbers that PyTorch computed from it. docs/make_case.py writes such
// folders.
#pragma once

#include "core/matrix.hpp"
#include "train/train_settings.hpp"

#include <filesystem>
#include <optional>
#include <vector>

namespace moesaic::app {

using core::index_t;

/// What a case says about one run of it.
struct ReferenceResults {
    std::vector<double> eval_losses;        ///< per batch, before training
    std::vector<double> log_probabilities;  ///< of the first sequence's labels
    std::vector<double> train_losses;       ///< per step, before its update
    std::vector<double> gradient_norms;     ///< per step, before clipping
    std::vector<double> final_eval_losses;  ///< per batch, after training
};

/// How far PyTorch's own BF16 is from its FP32; nothing where the case does not say.
struct ReferenceErrors {
    std::optional<double> loss;  ///< largest of all steps, relative
    std::optional<double> log_probabilities;
    std::optional<double> gradients;     ///< norm of the error of all, relative
    std::optional<double> worst_tensor;  ///< the same of the worst tensor
    std::optional<double> gradient_norms;
};

/// The contents of expected.json, and where the other files are.
struct ReferenceCase {
    std::filesystem::path folder;
    train::TrainSettings train;
    ReferenceResults fp32;
    ReferenceErrors bf16;
    /// Smallest difference between the last score that a router chose and the first that it did not, in FP32; nothing
    /// where the case does not say.
    std::optional<double> closest_choice;

    /// What training starts from.
    [[nodiscard]] std::filesystem::path adapter() const { return folder / "adapter_init"; }
};

[[nodiscard]] ReferenceCase read_case(const std::filesystem::path& folder);

/// The largest error of one element relative to it; infinity where sizes differ or an element is not finite.
[[nodiscard]] double largest_relative_error(const std::vector<double>& found, const std::vector<double>& expected);
/// Norm of the difference relative to the norm of `expected`: one number for values that are noisy one by one.
[[nodiscard]] double relative_norm_of_error(const std::vector<double>& found, const std::vector<double>& expected);

}  // namespace moesaic::app
