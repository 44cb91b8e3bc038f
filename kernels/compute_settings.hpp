// In which type and with which kernels a run computes.
#pragma once

#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::kernels {

/// The type of weights and activations. In bf16x2 products outside of the routed experts and backward take activations
/// in two parts: what rounding to BF16 took from them is rounded, too, and multiplied as well.
enum class Precision : std::uint8_t { bf16, bf16x2, fp32 };
constexpr auto names_of(Precision) {
    return std::to_array<std::string_view>({"bf16", "bf16x2", "fp32"});
}

/// Calls `work` with a value of that type.
template <class Work>
decltype(auto) with_precision(Precision precision, Work&& work) {
    switch (precision) {
        case Precision::fp32:
            return std::forward<Work>(work)(float{});
        case Precision::bf16:
        case Precision::bf16x2:
            break;
    }
    return std::forward<Work>(work)(core::bf16{});
}

struct ComputeSettings {
    Precision precision = Precision::bf16x2;
    std::string isa = "auto";

    void declare(core::OptionSet& set);
    void declare_isa(core::OptionSet& set);
    /// FP32 runs are the reference and use the portable kernels unless told otherwise.
    [[nodiscard]] KernelSet kernels() const;
};

}  // namespace moesaic::kernels
