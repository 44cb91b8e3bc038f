// In which type and with which kernels a run computes.
#pragma once

#include "core/scalar.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::kernels {

/// The type of weights and activations.
enum class Precision : std::uint8_t { bf16, fp32 };
constexpr auto names_of(Precision) {
    return std::to_array<std::string_view>({"bf16", "fp32"});
}

/// Calls `work` with a value of that type.
template <class Work>
decltype(auto) with_precision(Precision precision, Work&& work) {
    switch (precision) {
        case Precision::fp32:
            return std::forward<Work>(work)(float{});
        case Precision::bf16:
            break;
    }
    return std::forward<Work>(work)(core::bf16{});
}

struct ComputeSettings {
    Precision precision = Precision::bf16;
    std::string isa = "auto";

    void declare(core::OptionSet& set);
    void declare_isa(core::OptionSet& set);
    /// The level to choose kernels by: FP32 runs are the reference and use the portable kernels unless told otherwise.
    [[nodiscard]] std::string isa_level() const;
};

}  // namespace moesaic::kernels
