// What adapters B A of projections have in common (Hu et al., "LoRA", 2021).
#pragma once

#include "core/matrix.hpp"

#include <cmath>
#include <cstdint>

namespace moesaic::ops {

using core::index_t;
using core::MatrixView;

/// The two matrices of an adapter.
enum class LoraFactor : std::uint8_t { a, b };

/// Both, or their gradients; of several modules those of one below those of the other.
template <class S>
struct LoraMatrices {
    MatrixView<S> a;  // [R, in]
    MatrixView<S> b;  // [out, R]
};

/// The scale s of an adapter: alpha / R, or alpha / sqrt(R) (Kalajdzievski, "rsLoRA", 2023).
[[nodiscard]] inline double lora_scale(index_t lora_rank, double alpha, bool rank_stabilised) {
    const auto r = static_cast<double>(lora_rank);
    return alpha / (rank_stabilised ? std::sqrt(r) : r);
}

}  // namespace moesaic::ops
