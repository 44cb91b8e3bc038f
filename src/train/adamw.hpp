// AdamW (Loshchilov and Hutter, 2019) on buckets of LoRA factors whose optimizer state is spread over ranks: each rank
// owns one shard of every bucket, holds the moments of that shard alone, and updates it for all.
#pragma once

#include "kernels/kernel_set.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "mpi/process_grid.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace moesaic::core {
class OptionSet;
}

namespace moesaic::train {

using core::index_t;

struct AdamWSettings {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0;

    void declare(core::OptionSet& set);
};

/// What the owner of an element has besides its value.
enum class OwnedData : std::uint8_t { gradients, first_moment, second_moment };
constexpr auto names_of(OwnedData) {
    return std::to_array<std::string_view>({"gradients", "first_moment", "second_moment"});
}

/// The owned shard of one bucket.
struct OwnedShard {
    index_t begin = 0;            ///< first element in the bucket
    std::vector<index_t> counts;  ///< elements that each rank of the bucket's group owns
    std::span<float> gradients;   ///< reduced: those of the bucket itself if no other rank holds it
    std::vector<float> reduced;   ///< storage of `gradients` otherwise
    std::vector<float> first_moment;
    std::vector<float> second_moment;

    [[nodiscard]] std::span<const float> data(OwnedData which) const;
};

class ShardedAdamW {
public:
    /// `parameters` and `kernels` must outlive the object.
    ShardedAdamW(model::LoraParameters<float>& parameters, const kernels::KernelSet& kernels,
                 const mpi::ProcessGrid& grid, const AdamWSettings& settings);

    /// Collective. Sums gradients over the ranks that hold a bucket; each rank keeps the shard that it owns.
    void reduce_gradients();
    /// Squared Euclidean norm of the owned gradients; owned shards are disjoint over all ranks.
    [[nodiscard]] double squared_norm() const;
    /// Collective. One update with gradients scaled by `clip_scale`; all ranks have the new factors afterwards.
    void step(double learning_rate, double clip_scale);

    /// Updates so far.
    [[nodiscard]] index_t updates() const noexcept { return updates_; }
    void set_updates(index_t updates) noexcept { updates_ = updates; }
    [[nodiscard]] const OwnedShard& shard(std::size_t bucket) const { return shards_[bucket]; }
    /// Collective over the ranks that hold a bucket. What all of them own of it [1, size]; right on their rank 0 alone.
    [[nodiscard]] core::Matrix<float> gather(std::size_t bucket, OwnedData which) const;
    /// Takes the owned moments of a bucket from the whole of them [1, size].
    void set_moments(std::size_t bucket, const core::Matrix<float>& first, const core::Matrix<float>& second);
    /// The ranks that hold the same bucket.
    [[nodiscard]] const mpi::Communicator& group(std::size_t bucket) const;

private:
    model::LoraParameters<float>& parameters_;
    const kernels::KernelSet& kernels_;
    mpi::ProcessGrid grid_;
    AdamWSettings settings_;
    std::vector<OwnedShard> shards_;
    index_t updates_ = 0;
};

}  // namespace moesaic::train
