// Rotary position embedding (Su et al., "RoFormer", 2021) and its extensions to longer contexts, as transformers
// computes them (modeling_rope_utils.py).
#pragma once

#include "core/matrix.hpp"
#include "kernels/elementwise.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace moesaic::ops {

using core::index_t;
using kernels::ElementwiseKernels;

/// How frequencies are derived from theta^(-2i/D).
enum class RopeType : std::uint8_t { standard, linear, dynamic, yarn, llama3 };

/// Members that the type does not use keep their defaults.
struct RopeSettings {
    RopeType type = RopeType::standard;
    index_t size = 0;          ///< D: elements of a head that are rotated
    bool interleaved = false;  ///< element 2i is rotated with 2i + 1, instead of i with i + D/2
    double theta = 10000;
    double factor = 1;                 ///< of the extension of the context
    index_t trained_positions = 0;     ///< before the extension
    double attention_factor = 1;       ///< yarn: on cosines and sines
    double beta_fast = 32;             ///< yarn: rotations over the trained positions above which nothing changes
    double beta_slow = 1;              ///< yarn: rotations below which frequencies are divided by the factor
    bool truncate = true;              ///< yarn: round the bounds of the ramp between the two to whole elements
    double low_frequency_factor = 1;   ///< llama3
    double high_frequency_factor = 4;  ///< llama3
    double latent_score_factor = 1;    ///< what latent attention multiplies its scores by beside 1 / sqrt(D)
};

/// The D/2 angles by which consecutive positions differ. The dynamic type depends on the length of the longest sequence
/// (bloc97 and emozilla, 2023); yarn: Peng et al., "YaRN", 2023.
[[nodiscard]] std::vector<double> rope_frequencies(const RopeSettings& settings, index_t longest);

/// Where the rotated elements lie in consecutive heads.
struct RotaryRange {
    index_t head_size = 0;
    index_t begin = 0;  ///< of the D rotated elements in a head
};

/// Cosines and sines of all positions below a limit. A is the type of angles and heads.
template <class Sum>
class RotaryTable {
public:
    explicit RotaryTable(const RopeSettings& settings) : settings_(settings) {}

    /// True if the table depends on the longest sequence, which all ranks must then agree on.
    [[nodiscard]] bool is_dynamic() const noexcept { return settings_.type == RopeType::dynamic; }
    /// Whether the table serves passes whose longest sequence is this.
    [[nodiscard]] bool covers(index_t longest) const noexcept {
        return !frequencies_.empty() && longest <= positions_ && (!is_dynamic() || longest == longest_);
    }
    /// Makes the table cover positions [0, longest).
    void extend(index_t longest);
    /// Rotates the heads of one token in place. heads: [n * rotary.head_size] for any n; `position` is below the limit.
    void rotate(const ElementwiseKernels<Sum>& kernels, const RotaryRange& rotary, std::span<Sum> heads,
                index_t position) const {
        apply(kernels, rotary, heads, position, Sum(1));
    }
    /// The gradient of `rotate`: the inverse rotation, times the square of the attention factor.
    void rotate_back(const ElementwiseKernels<Sum>& kernels, const RotaryRange& rotary, std::span<Sum> heads,
                     index_t position) const {
        apply(kernels, rotary, heads, position, Sum(-1));
    }

private:
    void apply(const ElementwiseKernels<Sum>& kernels, const RotaryRange& rotary, std::span<Sum> heads,
               index_t position, Sum direction) const;

    RopeSettings settings_;
    std::vector<Sum> frequencies_;  // [D/2]
    index_t longest_ = 0;           ///< that the frequencies were computed for, where they depend on it
    index_t positions_ = 0;
    std::vector<Sum> cosines_;  // [positions, D/2]
    std::vector<Sum> sines_;
};

}  // namespace moesaic::ops
