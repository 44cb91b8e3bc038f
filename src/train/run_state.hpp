// Checkpoints of a training run: LoRA masters, moments and where in the data the run stands, independent of the number
// of ranks that wrote them.
#pragma once

#include "core/options.hpp"
#include "model/families/architecture.hpp"
#include "train/adamw.hpp"
#include "train/adapter_store.hpp"

#include <filesystem>
#include <vector>

namespace moesaic::train {

/// Progress of a run and what it depends on.
struct RunState {
    index_t step = 0;        ///< optimizer steps done, skipped ones included
    index_t batch_size = 0;  ///< with the step: the position in the data
    bool shuffle = false;
    std::uint64_t seed = 0;
    std::uint64_t data_fingerprint = 0;
    std::uint64_t model_fingerprint = 0;
};

/// Collective. Writes the checkpoint of `state.step` to `folder`, makes it the latest and keeps the newest `keep`.
/// `settings` are stored beside the state for people who look into the file.
void save_checkpoint(const std::filesystem::path& folder, int keep, const RunState& state,
                     const std::vector<core::OptionSet::Setting>& settings, const model::Architecture& architecture,
                     const AdapterStore& store, const ShardedAdamW& optimizer);

/// Every rank reads its pieces of `file`. Throws a usage error if the checkpoint belongs to another model, other LoRA
/// settings or other data than `expected` (whose step is not looked at). Returns the state in the file.
[[nodiscard]] RunState load_checkpoint(const std::filesystem::path& file, const RunState& expected,
                                       const model::Architecture& architecture, const AdapterStore& store,
                                       ShardedAdamW& optimizer);

}  // namespace moesaic::train
