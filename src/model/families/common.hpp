// Parts of `config.json` that families share.
#pragma once

#include "model/architecture.hpp"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moesaic::model {

/// Refuses a configuration feature that would change the mathematics: throws a usage error naming the key and its value
/// unless the key is missing, null, or equal to `supported`.
void refuse_unless(const nlohmann::json& config, const std::string& key, const nlohmann::json& supported,
                   const std::string& source);

/// Sizes that every family has, the norm epsilon, RoPE, the head, and what no family supports (quantised weights,
/// activations other than SiLU).
[[nodiscard]] Architecture read_common(const nlohmann::json& config, const std::string& source);

/// Reads the number of experts under the first of its names that is there, and checks it against experts per token.
void read_expert_counts(const nlohmann::json& config, const std::string& source, Architecture& architecture);

}  // namespace moesaic::model
