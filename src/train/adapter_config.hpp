// adapter_config.json of PEFT, and names in adapters.
#pragma once

#include "model/adapters/lora_parameters.hpp"

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moesaic::train {

using core::index_t;

inline constexpr const char* adapter_config_name = "adapter_config.json";
inline constexpr const char* adapter_weights_name = "adapter_model.safetensors";
inline constexpr const char* peft_prefix = "base_model.model.";
inline constexpr const char* a_suffix = ".lora_A.weight";
inline constexpr const char* b_suffix = ".lora_B.weight";

/// Where transformers 5 has the fused experts of a layer, below "model.layers.{layer}."; PEFT nests the adapters of
/// their two parameters.
inline constexpr const char* fused_outer = "mlp.experts";
inline constexpr const char* fused_inner = "mlp.experts.base_layer";
inline constexpr const char* fused_gate_up = "mlp.experts.gate_up_proj";
inline constexpr const char* fused_down = "mlp.experts.down_proj";

struct AdapterConfig {
    model::LoraSettings settings;             ///< of r, lora_alpha, use_rslora and the patterns
    std::vector<std::string> target_modules;  ///< whole names or last parts; none where it is a regular expression
};

/// Features of PEFT that change the mathematics and are not supported are refused by name.
[[nodiscard]] AdapterConfig read_adapter_config(const std::filesystem::path& folder);

/// A module, or a parameter of a fused layout, as PEFT names it.
struct AdaptedModule {
    std::string name;
    model::AdapterSpec spec;
    bool is_parameter = false;
};

/// The configuration with which PEFT gives all these modules their LoRA ranks and scales.
[[nodiscard]] nlohmann::json adapter_config(const std::string& base_model, const model::LoraSettings& settings,
                                            const std::vector<AdaptedModule>& modules);

}  // namespace moesaic::train
