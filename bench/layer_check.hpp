// Does an expert layer in BF16 compute what the same layer computes in FP32?
#pragma once

#include "bench/expert_layer.hpp"
#include "bench/routing.hpp"
#include "measure/results.hpp"

#include <vector>

namespace moesaic::bench {

/// Errors above this are mistakes: a chain of four products in BF16, each result rounded to 8 bits, errs by about half
/// a percent (relative Frobenius norm).
inline constexpr double layer_error_bound = 0.02;
/// The same where tokens are rounded to 8 bits before each product: by up to 1/254 of the largest element of a row.
inline constexpr double integer_error_bound = 0.05;
/// That of weights in this format.
[[nodiscard]] constexpr double error_bound_of(ops::WeightFormat weights) {
    return ops::access_to<core::bf16>(weights) == ops::Access::integers ? integer_error_bound : layer_error_bound;
}

/// What one forward and backward gave.
struct LayerResult {
    Matrix<float> output;                  // [T, H]
    Matrix<float> grad_input;              // [T, H]
    Matrix<float> grad_routing;            // [T, K]
    std::vector<Matrix<float>> grad_lora;  ///< A and B of gate, up and down; empty for frozen experts
};

/// Relative Frobenius norms of the differences; for LoRA that of the worst of the six tensors.
struct LayerErrors {
    double output = 0;
    double grad_input = 0;
    double grad_routing = 0;
    double grad_lora = 0;
};

/// || found - expected || / || expected ||; NaN if a value is.
[[nodiscard]] double relative_error(const Matrix<float>& found, const Matrix<float>& expected);
[[nodiscard]] LayerErrors compare(const LayerResult& found, const LayerResult& expected);

/// The errors as named checks.
[[nodiscard]] std::vector<measure::Check> checks_of(const LayerErrors& errors, double bound = layer_error_bound);

/// Errors against FP32.
struct CheckedLayer {
    LayerErrors computed;   ///< with the same weights as they are held
    LayerErrors quantised;  ///< with the weights before they were rounded to their format
};

/// Runs a few tokens through the first experts of `layer`, and through layers in FP32 of these experts alone, computed
/// by the portable kernels. Sized to take seconds.
[[nodiscard]] CheckedLayer measure_errors(ExpertLayer<core::bf16>& layer, const LayerSettings& settings);

/// Tokens that `measure_errors` uses: max_tokens of its layer must not be less.
[[nodiscard]] index_t tokens_of_check(const LayerShape& shape);

}  // namespace moesaic::bench
