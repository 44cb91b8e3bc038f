// One reader per model family: from the `config.json` of transformers, version 4 or 5, to an Architecture.
#pragma once

#include "model/architecture.hpp"

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moesaic::model {

[[nodiscard]] Architecture read_qwen2_moe(const nlohmann::json& config, const std::string& source);
[[nodiscard]] Architecture read_qwen3_moe(const nlohmann::json& config, const std::string& source);
[[nodiscard]] Architecture read_mixtral(const nlohmann::json& config, const std::string& source);
[[nodiscard]] Architecture read_olmoe(const nlohmann::json& config, const std::string& source);
[[nodiscard]] Architecture read_glm4_moe(const nlohmann::json& config, const std::string& source);
[[nodiscard]] Architecture read_deepseek_v2(const nlohmann::json& config, const std::string& source);
/// Also Kimi-K2, whose mathematics and tensors are the same.
[[nodiscard]] Architecture read_deepseek_v3(const nlohmann::json& config, const std::string& source);

}  // namespace moesaic::model
