// One reader per model family: from the `config.json` of transformers, version 4 or 5, to an Architecture.
#pragma once

#include "model/families/architecture.hpp"
#include "model/families/configuration.hpp"

namespace moesaic::model {

[[nodiscard]] Architecture read_qwen2_moe(const Configuration& config);
[[nodiscard]] Architecture read_qwen3_moe(const Configuration& config);
[[nodiscard]] Architecture read_mixtral(const Configuration& config);
[[nodiscard]] Architecture read_olmoe(const Configuration& config);
[[nodiscard]] Architecture read_glm4_moe(const Configuration& config);
[[nodiscard]] Architecture read_deepseek_v2(const Configuration& config);
/// Also Kimi-K2, whose mathematics and tensors are the same.
[[nodiscard]] Architecture read_deepseek_v3(const Configuration& config);

}  // namespace moesaic::model
