// Which modules of a model are adapted, and how.
#pragma once

#include "core/matrix.hpp"
#include "model/adapters/module_patterns.hpp"

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::model {

using core::index_t;

/// Kinds of projections that can be adapted.
enum class LoraTarget : std::uint8_t { experts, attention, shared, dense };
constexpr auto names_of(LoraTarget) {
    return std::to_array<std::string_view>({"experts", "attention", "shared", "dense"});
}

/// The adapter of one module; of lora_rank 0 if it has none.
struct AdapterSpec {
    index_t lora_rank = 0;  ///< R
    double scale = 0;       ///< s

    [[nodiscard]] bool operator==(const AdapterSpec&) const = default;
};

inline constexpr double largest_alpha = 1e9;

struct LoraSettings {
    index_t rank = 8;  ///< 0 gives a frozen model
    double alpha = 16;
    bool rank_stabilised = false;  ///< scale alpha / sqrt(R) instead of alpha / R (Kalajdzievski, "rsLoRA", 2023)
    std::set<LoraTarget> targets = {LoraTarget::experts};
    double dropout = 0;  ///< probability with which an element of A's input is zeroed in training
    std::uint64_t dropout_seed = 0;
    ModulePatterns rank_pattern{};  ///< for modules of another rank
    ModulePatterns alpha_pattern{};
    /// If set, exactly these modules are adapted and all of the above but dropout says nothing: the modules of an
    /// adapter that was read.
    std::optional<std::map<std::string, AdapterSpec>> modules{};
    std::vector<std::string> warnings{};  ///< what users should know of how that adapter was read, a line each

    void declare(core::OptionSet& set);
    [[nodiscard]] double scale(index_t module_rank, double module_alpha) const;
    /// Throws a usage error if a pattern gives the module a rank that is no positive integer.
    [[nodiscard]] AdapterSpec spec_of(LoraTarget target, const std::string& module) const;
};

}  // namespace moesaic::model
