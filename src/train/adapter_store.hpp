// LoRA values between the pieces that ranks hold and whole tensors, layer by layer, so that no rank ever holds the
// whole state of a large model; and adapters as folders that HF PEFT reads: adapter_config.json and
// adapter_model.safetensors. docs/adapters.md describes both layouts.
#pragma once

#include "core/matrix.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/families/architecture.hpp"
#include "mpi/process_grid.hpp"

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::train {

using core::index_t;

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

/// The settings of a run: those of the adapter in `folder`, with the dropout of `wanted`, or `wanted` itself if no
/// folder is named. Throws a usage error for options `given` that contradict the adapter, and for settings by which
/// nothing of the model is adapted.
[[nodiscard]] model::LoraSettings settings_to_start_from(const std::filesystem::path& folder,
                                                         const model::Architecture& architecture,
                                                         const model::LoraSettings& wanted,
                                                         const core::OptionSet& given);

/// Full matrices of one tensor, below each other: [count * rows, cols].
struct FullTensor {
    const model::LoraTensor* tensor = nullptr;
    core::Matrix<float> values;

    [[nodiscard]] core::MatrixView<const float> matrix(index_t index) const {
        return values.view().rows(index * tensor->rows, tensor->rows);
    }
};

/// Gives a bucket's factors, or what belongs to them element by element, as this rank holds it: [1, size]. It must be
/// right on rank 0 of the ranks that hold the same. Collective over these.
using BucketSource = std::function<core::Matrix<float>(std::size_t bucket)>;

/// The factors of a model, whatever ranks hold them.
class AdapterStore {
public:
    /// `parameters` must outlive the object.
    AdapterStore(model::LoraParameters<float>& parameters, const mpi::ProcessGrid& grid)
        : parameters_(parameters), grid_(grid) {}

    [[nodiscard]] model::LoraParameters<float>& parameters() const noexcept { return parameters_; }
    [[nodiscard]] const mpi::Communicator& world() const noexcept { return grid_.world(); }

    using Use = std::function<void(const FullTensor&)>;
    /// Collective. Calls `use` on rank 0 for every tensor of factors in order. If it throws, the ranks still meet in
    /// the remaining collectives, and then all throw its error.
    void for_each_tensor(const Use& use) const;
    /// Collective. The same for what `source` gives in place of factors.
    void for_each_tensor(const BucketSource& source, const Use& use) const;

    /// Collective. Rank 0 writes the present factors, those of optimizer step `step`; an older adapter is replaced when
    /// the new one is complete.
    void save(const std::filesystem::path& folder, AdapterLayout layout, const std::string& base_model,
              const model::Architecture& architecture, index_t step) const;
    /// Fills this rank's factors, which were made for the settings of the adapter in `folder`; reads only this rank's
    /// slices where the layout allows it. A module that the model does not have is an error.
    void load(const std::filesystem::path& folder, const model::Architecture& architecture);

private:
    [[nodiscard]] core::Matrix<float> values(std::size_t bucket) const;
    /// Collective. The tensors of one bucket on rank 0 of the world; elsewhere an empty list.
    [[nodiscard]] std::vector<FullTensor> collect(std::size_t bucket, const BucketSource& source) const;

    model::LoraParameters<float>& parameters_;
    mpi::ProcessGrid grid_;
};

/// The optimizer step that the adapter in `folder` was saved at; nothing where there is no adapter that says so.
[[nodiscard]] std::optional<index_t> adapter_step(const std::filesystem::path& folder);

/// This rank's piece of a full tensor (all matrices below each other) in a bucket-sized buffer.
void take_piece(const model::LoraTensor& tensor, core::MatrixView<const float> full, core::MatrixView<float> piece);

}  // namespace moesaic::train
