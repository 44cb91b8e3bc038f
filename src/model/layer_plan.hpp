// What a layer consists of, before it is built: the one list that construction, loading, LoRA matrices and their names,
// the memory plan, random weights and the work counts of benchmarks walk.
#pragma once

#include "core/slice.hpp"
#include "model/adapters/lora_settings.hpp"
#include "model/decoder_settings.hpp"
#include "model/families/architecture.hpp"
#include "model/weights/weights.hpp"
#include "ops/buffer_plan.hpp"
#include "ops/expert_backend.hpp"
#include "ops/weights/weight_format.hpp"

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::model {

/// A rank's place in the dimensions of the grid that share experts.
struct GridPlace {
    index_t expert = 0;
    index_t expert_ranks = 1;
    index_t tensor = 0;
    index_t tensor_ranks = 1;
};

/// Part `index` of `parts` of a dimension: whole blocks of 32, of which there may be none.
[[nodiscard]] core::Slice blocks_slice(index_t size, index_t index, index_t parts);
/// A rank's part of a dimension that is spread over the tensor group: whole blocks of 32 where there are enough, so
/// that no part cuts groups of quantised weights that share a scale.
[[nodiscard]] core::Slice shard_of(index_t size, index_t rank, index_t ranks);

/// A small tensor that every rank reads whole and keeps in full precision: a norm, a bias, a router.
struct TensorPlan {
    std::string name;
    TensorRole role = TensorRole::matrix;
    index_t rows = 1;
    index_t cols = 0;
};

/// Which dimension of a projection is spread over the tensor group.
enum class ShardedSide : std::uint8_t { none, out, in };

/// A projection of the layer, or the same projection of all its routed experts: `count` frozen matrices [out, in] with
/// the adapters of as many modules. This rank has those in `held`, and of each of them [local_out, local_in].
struct ProjectionPlan {
    std::string name;                  ///< of its LoRA matrices, unique: the module, without a number for all experts
    std::vector<std::string> modules;  ///< [count], as in the checkpoint
    std::vector<AdapterSpec> specs;    ///< [count]; of lora_rank 0 where a module has none
    index_t lora_rank = 0;             ///< R of all its LoRA matrices, those of smaller adapters are padded; 0: none
    LoraTarget target = LoraTarget::attention;
    std::optional<ops::Projection> routed{};  ///< which projection of routed experts it is
    index_t out = 0;
    index_t in = 0;
    bool has_bias = false;
    std::optional<ops::WeightFormat> stored{};  ///< how the checkpoint has its weights, if that is known
    core::Slice held = {0, 1};
    ShardedSide sharded = ShardedSide::none;
    core::Slice shard{};  ///< this rank's part of the dimension that is spread

    [[nodiscard]] index_t count() const noexcept { return static_cast<index_t>(modules.size()); }
    [[nodiscard]] bool is_routed() const noexcept { return routed.has_value(); }
    [[nodiscard]] index_t local_out() const noexcept { return sharded == ShardedSide::out ? shard.extent : out; }
    [[nodiscard]] index_t local_in() const noexcept { return sharded == ShardedSide::in ? shard.extent : in; }
};

/// A norm and what follows it in the residual stream: a token mixer, or a feed-forward network.
struct BlockPlan {
    std::string_view kind;  ///< blocks of one kind have one type of state
    TensorPlan norm;
    std::vector<ProjectionPlan> projections;  ///< gate, up and down of routed experts are the last three
    std::vector<TensorPlan> tensors;
    std::vector<ops::BufferPlan> state;               ///< BlockState of the block
    std::vector<ops::BufferPlan> scratch;             ///< its share of the Workspace
    std::vector<ops::BufferPlan> exchange;            ///< the same, of what rows travel through
    std::vector<std::vector<ops::BufferPlan>> calls;  ///< what functions hold while they run, one after the other

    [[nodiscard]] bool is_trainable() const noexcept;
    /// Which of the projections it is, given the last part of its module's name, for example "q_proj".
    [[nodiscard]] std::size_t index_of(std::string_view projection) const;
    /// Adds the work buffers of projections that are applied together.
    void add_linears(std::initializer_list<std::string_view> names, const LoraSettings& lora);
};

struct LayerPlan {
    BlockPlan mixer;
    BlockPlan feed_forward;
};

/// A projection of a single module that every rank has whole, with the adapter that the settings give it.
[[nodiscard]] ProjectionPlan plan_projection(const std::string& module, index_t out, index_t in, LoraTarget target,
                                             const LoraSettings& lora, bool has_bias = false);

/// All layers as the rank at `place` holds them. Throws a usage error for adapters that can't be.
[[nodiscard]] std::vector<LayerPlan> plan_layers(const Architecture& architecture, const DecoderSettings& settings,
                                                 const GridPlace& place);

}  // namespace moesaic::model
