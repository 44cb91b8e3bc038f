// One reader per model family: from the `config.json` of transformers to an Architecture.
#pragma once

#include "model/architecture.hpp"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moesaic::model {

/// Qwen3-MoE (transformers `Qwen3MoeConfig`, written by version 4 or 5).
[[nodiscard]] Architecture read_qwen3_moe(const nlohmann::json& config, const std::string& source);

}  // namespace moesaic::model
