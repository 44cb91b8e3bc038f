// The model families: of each the keys that its `config.json` may have, with the values that transformers, version 4 or
// 5, gives them where they are missing, and a reader from that file to an Architecture.
#pragma once

#include "io/known_keys.hpp"
#include "model/families/architecture.hpp"
#include "model/families/configuration.hpp"

namespace moesaic::model {

[[nodiscard]] io::KnownKeys keys_of_qwen2_moe();
[[nodiscard]] Architecture read_qwen2_moe(const Configuration& config);

[[nodiscard]] io::KnownKeys keys_of_qwen3_moe();
[[nodiscard]] Architecture read_qwen3_moe(const Configuration& config);

[[nodiscard]] io::KnownKeys keys_of_mixtral();
[[nodiscard]] Architecture read_mixtral(const Configuration& config);

[[nodiscard]] io::KnownKeys keys_of_olmoe();
[[nodiscard]] Architecture read_olmoe(const Configuration& config);

[[nodiscard]] io::KnownKeys keys_of_glm4_moe();
[[nodiscard]] Architecture read_glm4_moe(const Configuration& config);

[[nodiscard]] io::KnownKeys keys_of_deepseek_v2();
[[nodiscard]] Architecture read_deepseek_v2(const Configuration& config);

/// Also Kimi-K2, whose mathematics and tensors are the same.
[[nodiscard]] io::KnownKeys keys_of_deepseek_v3();
[[nodiscard]] Architecture read_deepseek_v3(const Configuration& config);

}  // namespace moesaic::model
