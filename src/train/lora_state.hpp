// Full LoRA tensors from the pieces that ranks hold, and back: for adapters, checkpoints and comparisons, layer by
// layer, so that no rank ever holds the whole state of a large model.
#pragma once

#include "model/adapters/lora_parameters.hpp"
#include "mpi/process_grid.hpp"
#include "train/adamw.hpp"

#include <functional>
#include <string>
#include <vector>

namespace moesaic::train {

/// What of a LoRA tensor.
enum class LoraContent : std::uint8_t { values, gradients, first_moment, second_moment };

/// Full matrices of one tensor, below each other: [count * rows, cols].
struct FullTensor {
    const model::LoraTensor* tensor = nullptr;
    core::Matrix<float> values;

    [[nodiscard]] core::MatrixView<const float> matrix(index_t index) const {
        return values.view().rows(index * tensor->rows, tensor->rows);
    }
};

/// Collective. The tensors of one bucket on rank 0 of the world; elsewhere an empty list.
[[nodiscard]] std::vector<FullTensor> collect(const model::LoraParameters<float>& parameters,
                                              const ShardedAdamW& optimizer, const mpi::ProcessGrid& grid,
                                              std::size_t bucket, LoraContent content);

/// Collective. Calls `use` on rank 0 for every tensor of all buckets in order. If it throws, the ranks still meet in
/// the remaining collectives, and then all throw its error.
void for_each_full_tensor(const model::LoraParameters<float>& parameters, const ShardedAdamW& optimizer,
                          const mpi::ProcessGrid& grid, const std::vector<LoraContent>& contents,
                          const std::function<void(const FullTensor&, LoraContent)>& use);

/// This rank's piece of a full tensor (all matrices below each other) in a bucket-sized buffer.
void take_piece(const model::LoraTensor& tensor, core::MatrixView<const float> full, core::MatrixView<float> piece);

}  // namespace moesaic::train
