// LoRA adapters as folders that HF PEFT reads: adapter_config.json and adapter_model.safetensors. docs/adapters.md
// describes both layouts.
#pragma once

#include "model/adapters/lora_parameters.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"
#include "train/adamw.hpp"

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace moesaic::train {

/// How the factors of routed experts are stored.
enum class AdapterLayout : std::uint8_t {
    per_expert,  ///< a pair of matrices per expert and projection
    fused,       ///< one pair for gate and up of all experts of a layer, one for down: as PEFT adapts fused weights
};
constexpr auto names_of(AdapterLayout) {
    return std::to_array<std::string_view>({"per-expert", "fused"});
}

/// Settings of the adapter in `folder`, with every module that it adapts, from its configuration and the shapes of its
/// tensors, in either layout. Features of PEFT that are not supported are refused by name.
[[nodiscard]] model::LoraSettings read_adapter_settings(const std::filesystem::path& folder,
                                                        const model::Architecture& architecture);

/// The settings of a run that starts from the adapter in `folder`: the adapter's, with the dropout of `wanted`, whose
/// other members must have their defaults or agree. `wanted` itself if no folder is named.
[[nodiscard]] model::LoraSettings settings_to_start_from(const std::filesystem::path& folder,
                                                         const model::Architecture& architecture,
                                                         const model::LoraSettings& wanted);

/// Fills this rank's factors, which were made for the settings of the adapter in `folder`; reads only this rank's
/// slices where the layout allows it. A module that the model does not have is an error.
void load_adapter(const std::filesystem::path& folder, const model::Architecture& architecture,
                  model::LoraParameters<float>& parameters);

/// Collective. Rank 0 writes the present factors; an older adapter is replaced when the new one is complete.
void save_adapter(const std::filesystem::path& folder, AdapterLayout layout, const std::string& base_model,
                  const model::Architecture& architecture, const model::LoraParameters<float>& parameters,
                  const ShardedAdamW& optimizer, const mpi::ProcessGrid& grid);

}  // namespace moesaic::train
