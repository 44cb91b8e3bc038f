// Dropout of the inputs of LoRA's A. Masks are computed from the seed, the optimizer step, the token, the module and
// the feature alone: they are the same on any number of ranks, in any split of a batch, and again in backward.
#pragma once

#include "core/matrix.hpp"
#include "core/random.hpp"
#include "core/scalar.hpp"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

namespace moesaic::ops {

using core::index_t;

/// Dropout in one pass through a model.
struct Dropout {
    double probability = 0;               ///< 0: none
    std::uint64_t seed = 0;               ///< of the run
    index_t step = 0;                     ///< optimizer step
    std::span<const std::uint64_t> rows;  ///< which token of the step each row is

    [[nodiscard]] bool is_active() const noexcept { return probability > 0; }
};

/// The mask of one module's input. Elements that are kept are divided by the probability of that, which is a multiple
/// of 1/65536.
class DropoutMask {
public:
    static constexpr index_t features = 32;  ///< that one call decides on

    DropoutMask(const Dropout& dropout, std::uint64_t module) noexcept;

    /// Bit i says whether feature first + i of a token is kept.
    [[nodiscard]] std::uint32_t kept(std::uint64_t token, index_t first) const noexcept;
    /// What kept elements are multiplied by.
    [[nodiscard]] double scale() const noexcept { return scale_; }
    /// Multiplies features [first, first + count) of a token by the mask, rounding to Scalar.
    template <class Scalar>
    void apply(std::uint64_t token, index_t first, index_t count, Scalar* values) const {
        using Sum = core::accumulator_t<Scalar>;
        const Sum scale = static_cast<Sum>(scale_);
        for (index_t begin = 0; begin < count; begin += features) {
            const std::uint32_t bits = kept(token, first + begin);
            const index_t extent = std::min(count - begin, features);
            for (index_t i = 0; i < extent; ++i) {
                Scalar& value = values[begin + i];
                value = static_cast<Scalar>((bits >> static_cast<unsigned>(i) & 1U) != 0 ? core::widen(value) * scale
                                                                                         : Sum(0));
            }
        }
    }
    /// out += features [first, first + count) of a token's `values`, multiplied by the mask: the gradient of `apply`.
    template <class Sum>
    void add(std::uint64_t token, index_t first, index_t count, const Sum* values, Sum* out) const {
        const Sum scale = static_cast<Sum>(scale_);
        for (index_t begin = 0; begin < count; begin += features) {
            const std::uint32_t bits = kept(token, first + begin);
            const index_t extent = std::min(count - begin, features);
            for (index_t i = 0; i < extent; ++i) {
                out[begin + i] += (bits >> static_cast<unsigned>(i) & 1U) != 0 ? values[begin + i] * scale : Sum(0);
            }
        }
    }

private:
    std::uint64_t key_;
    std::uint32_t threshold_;
    double scale_;
};

/// Number of a module for `DropoutMask`, from its name.
[[nodiscard]] std::uint64_t dropout_module(std::string_view name) noexcept;

}  // namespace moesaic::ops
