// What of a model is adapted: a summary for people, and a check that the settings mean something for this model.
#pragma once

#include "model/adapters/lora_settings.hpp"
#include "model/families/architecture.hpp"

#include <set>
#include <string>
#include <vector>

namespace moesaic::model {

/// Modules of one kind that have adapters: all routed experts together, or those with the same last part of the name.
struct AdaptedKind {
    std::string name;  ///< "experts", "q_proj", "shared gate_proj"
    LoraTarget target = LoraTarget::experts;
    index_t modules = 0;
    index_t least_rank = 0;
    index_t largest_rank = 0;
    double parameters = 0;  ///< elements of their factors without padding
};

struct AdaptedModules {
    std::vector<AdaptedKind> kinds;  ///< in the order of their targets
    std::set<LoraTarget> targets;    ///< those that have adapters
    double parameters = 0;           ///< of all adapters
    double model_parameters = 0;     ///< of the model alone
};

[[nodiscard]] AdaptedModules adapted_modules(const Architecture& architecture, const LoraSettings& settings);

/// "144 x experts (rank 8), 24 x q_proj (rank 8); 442,368 of 5.7 M parameters (7.7 %)".
[[nodiscard]] std::string describe(const AdaptedModules& adapted);

/// Throws a usage error that names what the model has if a target stands for no module of the model, a pattern matches
/// no adapted module, or nothing is adapted at all.
void check_adapters(const Architecture& architecture, const LoraSettings& settings);

}  // namespace moesaic::model
