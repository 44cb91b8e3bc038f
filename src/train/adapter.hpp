// LoRA adapters as folders that HF PEFT reads: adapter_config.json and adapter_model.safetensors, one pair of matrices
// per expert and projection.
#pragma once

#include "model/architecture.hpp"
#include "model/lora_parameters.hpp"
#include "mpi/process_grid.hpp"
#include "train/adamw.hpp"

#include <filesystem>
#include <string>

namespace moesaic::train {

/// Settings of the adapter in `folder` (keys r, lora_alpha, use_rslora of adapter_config.json). Options of PEFT that
/// change the mathematics and are not supported are refused by name.
[[nodiscard]] model::LoraSettings read_adapter_settings(const std::filesystem::path& folder);

/// Fills this rank's factors from `folder`; reads only this rank's slices. The adapter must have the configured rank
/// and scale, all tensors of the model's LoRA targets, in their shapes, and no others.
void load_adapter(const std::filesystem::path& folder, model::LoraParameters<float>& parameters);

/// Collective. Rank 0 writes the present factors; an older adapter is replaced when the new one is complete.
void save_adapter(const std::filesystem::path& folder, const std::string& base_model,
                  const model::Architecture& architecture, const model::LoraParameters<float>& parameters,
                  const ShardedAdamW& optimizer, const mpi::ProcessGrid& grid);

}  // namespace moesaic::train
