#include "train/memory_plan.hpp"

#include "core/scalar.hpp"
#include "model/adapters/lora_parameters.hpp"
#include "model/layer_plan.hpp"
#include "ops/expert_backend.hpp"
#include "ops/loss.hpp"
#include "ops/weights/packed_weights.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <vector>

namespace moesaic::train {
namespace {

using model::Architecture;
using model::AttentionSettings;
using model::BlockPlan;
using model::LayerPlan;
using model::ProjectionPlan;
using ops::Activations;

constexpr double float_bytes = sizeof(float);

/// Part of the tokens that go to a tensor group with `held` of `experts` experts, if each goes to `choices` different
/// ones and all combinations are equally frequent.
double share_of_tokens(double experts, double held, double choices) {
    double none = 1;  // chance that no choice is held
    for (double chosen = 0; chosen < choices; ++chosen) {
        none *= std::max(experts - held - chosen, 0.0) / std::max(experts - chosen, 1.0);
    }
    return 1 - none;
}

double padded(double extent) {
    return std::ceil(extent / ops::kernel_block) * ops::kernel_block;
}

/// Sizes that the parts below share; floating point, because those of a hostile file may overflow integers.
struct Sizes {
    Sizes(const Architecture& architecture, const model::DecoderSettings& decoder, const MemoryRequest& request)
        : a(architecture),
          attention(architecture.attention),
          settings(decoder),
          retain(decoder.activations == Activations::retain),
          scalar(static_cast<double>(request.scalar_bytes)),
          own_tokens(std::ceil(static_cast<double>(request.tokens) /
                               static_cast<double>(request.data_ranks * request.expert_ranks * request.tensor_ranks))),
          replica_tokens(std::ceil(static_cast<double>(request.tokens) / static_cast<double>(request.data_ranks))),
          expert_ranks(static_cast<double>(request.expert_ranks)),
          tensor_ranks(static_cast<double>(request.tensor_ranks)),
          hidden(static_cast<double>(a.hidden)),
          vocabulary(static_cast<double>(a.vocabulary)),
          layers(static_cast<double>(a.layers)),
          moe_layers(static_cast<double>(a.moe_layers())),
          dense_layers(layers - moe_layers),
          experts(static_cast<double>(a.experts)),
          held_experts(std::ceil(experts / expert_ranks)),
          choices(static_cast<double>(a.experts_per_token)),
          group_tokens(std::ceil(replica_tokens * share_of_tokens(experts, held_experts, choices))),
          group_choices(replica_tokens * choices * (experts > 0 ? held_experts / experts : 0)),
          slice(std::ceil(static_cast<double>(a.expert_intermediate) / tensor_ranks)),
          dense(static_cast<double>(a.dense_intermediate)),
          shared(static_cast<double>(a.shared.intermediate)),
          heads(static_cast<double>(attention.heads)),
          queries(heads * static_cast<double>(attention.head_size)),
          keys(static_cast<double>(attention.kv_heads) * static_cast<double>(attention.head_size)),
          values(static_cast<double>(attention.kv_heads) * static_cast<double>(attention.value_size)),
          attended(heads * static_cast<double>(attention.value_size)) {
        if (a.mixers.front() == model::MixerKind::latent_attention) {
            query_latent = static_cast<double>(attention.query_rank);
            kv_latent = static_cast<double>(attention.kv_rank);
            rotated = static_cast<double>(attention.rope.size);
            expanded = queries - heads * rotated + attended;
        }
    }

    const Architecture& a;
    const AttentionSettings& attention;
    const model::DecoderSettings& settings;
    bool retain;
    double scalar;          ///< bytes of an element
    double own_tokens;      ///< of this rank in a pass
    double replica_tokens;  ///< of its replica
    double expert_ranks;
    double tensor_ranks;
    double hidden;
    double vocabulary;
    double layers;
    double moe_layers;
    double dense_layers;
    double experts;
    double held_experts;   ///< of them on this rank
    double choices;        ///< experts per token
    double group_tokens;   ///< that come to its tensor group
    double group_choices;  ///< that are experts of its tensor group
    double slice;          ///< of the experts' intermediate dimension
    double dense;          ///< intermediate size of dense layers
    double shared;         ///< intermediate size of shared experts
    double heads;
    double queries;  ///< width of all queries of a token
    double keys;
    double values;
    double attended;
    double query_latent = 0;  ///< of latent attention
    double kv_latent = 0;
    double rotated = 0;   ///< of a head
    double expanded = 0;  ///< keys without their rotated part, and values, from the compressed vector
};

/// The layers as the rank holds them that has most: slices of the last ranks are the longest.
std::vector<LayerPlan> layers_of(const Architecture& architecture, const model::LoraSettings& lora,
                                 const MemoryRequest& request) {
    return model::plan_layers(
        architecture, lora,
        {request.expert_ranks - 1, request.expert_ranks, request.tensor_ranks - 1, request.tensor_ranks});
}

/// Calls use(projection) for all of all layers.
template <class Use>
void for_each_projection(const std::vector<LayerPlan>& layers, const Use& use) {
    for (const LayerPlan& layer : layers) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            std::for_each(block->projections.begin(), block->projections.end(), use);
        }
    }
}

/// Bytes of a matrix [rows, cols].
double packed(ops::WeightFormat format, double rows, double cols) {
    const index_t of_strip = ops::PackedWeights::bytes_of(format, ops::kernel_block, static_cast<index_t>(cols));
    return padded(rows) / ops::kernel_block * static_cast<double>(of_strip);
}

double weight_bytes(const Sizes& s, const std::vector<LayerPlan>& layers) {
    const auto format = [&](std::optional<ops::WeightFormat> stored) {
        return s.scalar == float_bytes ? ops::format_for<float>(stored) : ops::format_for<core::bf16>(stored);
    };
    double bytes = packed(format(s.a.stored.others), s.vocabulary, s.hidden) * (s.a.tied_head ? 1 : 2);
    double wide = s.hidden;  // norms, biases, routers: in full precision
    for_each_projection(layers, [&](const ProjectionPlan& projection) {
        bytes += static_cast<double>(projection.held.extent) * packed(format(projection.stored),
                                                                      static_cast<double>(projection.local_out()),
                                                                      static_cast<double>(projection.local_in()));
        wide += projection.has_bias ? static_cast<double>(projection.out) : 0;
    });
    for (const LayerPlan& layer : layers) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            wide += static_cast<double>(block->norm.cols);
            for (const model::TensorPlan& tensor : block->tensors) {
                wide += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
            }
        }
    }
    return bytes + wide * float_bytes;
}

/// Elements of the LoRA factors of one rank by who else holds them.
using LoraElements = std::map<model::Holders, double>;

LoraElements lora_elements(const std::vector<LayerPlan>& layers) {
    LoraElements elements;
    for_each_projection(layers, [&](const ProjectionPlan& projection) {
        const double per_feature =
            static_cast<double>(projection.held.extent) * static_cast<double>(projection.lora_rank);
        elements[holders_of(projection, ops::LoraFactor::a)] +=
            per_feature * static_cast<double>(projection.local_in());
        elements[holders_of(projection, ops::LoraFactor::b)] +=
            per_feature * static_cast<double>(projection.local_out());
    });
    return elements;
}

/// Per row of this rank: model::BlockTape without the state.
double block_tape_bytes(const Sizes& s) {
    return s.hidden * (float_bytes + s.scalar) + float_bytes;
}

/// Per row of this rank: the state of attention.
double mixer_state_bytes(const Sizes& s) {
    const double normalised = s.attention.norm == ops::HeadNorm::none ? 0 : s.queries + s.keys;
    const double latent = 2 * (s.query_latent + s.kv_latent);  // before and after its norm
    return (s.queries + s.keys + s.values + s.attended + normalised + latent) * s.scalar + 3 * s.heads * float_bytes;
}

/// All rows: the state of a feed-forward network. Of routed rows of several ranks what arrived is kept, too.
double feed_forward_state_bytes(const Sizes& s, const BlockPlan& plan, bool keep) {
    const double mlp = s.retain ? 2 * s.scalar : 0;  // gate and up
    double bytes = 0;
    double lora_rank = 0;
    bool routes = false;
    for (const ProjectionPlan& projection : plan.projections) {
        routes = routes || projection.is_routed();
        lora_rank = projection.is_routed() ? static_cast<double>(projection.lora_rank) : lora_rank;
    }
    if (!routes) {
        return s.own_tokens * mlp * s.dense;
    }
    bytes += s.own_tokens * (mlp * s.shared + (s.experts + 2 * s.choices + 1) * float_bytes);
    if (s.expert_ranks * s.tensor_ranks > 1) {
        bytes += s.group_tokens * (s.hidden * s.scalar + 2 * s.choices * float_bytes);
    }
    constexpr double routed_row = 2 * sizeof(std::int32_t);
    bytes += s.group_tokens * s.choices * sizeof(index_t) + s.group_choices * routed_row;
    if (keep && s.retain) {
        bytes += s.group_choices * 2 * (s.slice + lora_rank) * s.scalar;
    }
    return bytes;
}

/// What tapes hold: of blocks below the lowest one that trains, and of all in an evaluation, as much as two need.
double activation_bytes(const Sizes& s, const std::vector<LayerPlan>& layers, bool training) {
    bool below = true;
    bool passes_by = false;
    double kept = s.own_tokens * (s.hidden * (float_bytes + s.scalar) + float_bytes);  // the last stream and its norm
    double passing_mixer = 0;
    double passing_feed_forward = 0;
    const auto add = [&](const BlockPlan& plan, bool is_mixer) {
        below = below && !plan.is_trainable();
        const bool keep = training && !below;
        const double state = is_mixer ? s.own_tokens * mixer_state_bytes(s) : feed_forward_state_bytes(s, plan, keep);
        if (keep) {
            kept += s.own_tokens * block_tape_bytes(s) + state;
        } else {
            passes_by = true;
            double& passing = is_mixer ? passing_mixer : passing_feed_forward;
            passing = std::max(passing, state);
        }
    };
    for (const LayerPlan& layer : layers) {
        add(layer.mixer, true);
        add(layer.feed_forward, false);
    }
    const double passing = passes_by ? 2 * s.own_tokens * block_tape_bytes(s) : 0;
    return kept + passing + passing_mixer + passing_feed_forward;
}

/// Work buffers of model::TokenExchange, in which as many rows are sent as received.
double exchange_bytes(const Sizes& s) {
    const double row = s.hidden * s.scalar;
    const double routed_row = row + 2 * s.choices * float_bytes;
    const double narrow = s.scalar < float_bytes ? row : 0;  // of sums before they are sent
    const double received = s.group_tokens / s.tensor_ranks;
    const double in_group = s.group_tokens * routed_row + (s.tensor_ranks > 1 ? s.group_tokens * (narrow + row) : 0);
    const double between_groups = received * (routed_row + row + narrow + s.hidden * float_bytes);
    return s.own_tokens * (narrow + s.choices * float_bytes) + in_group + (s.expert_ranks > 1 ? between_groups : 0);
}

/// Work buffers that layers share.
double buffer_bytes(const Sizes& s, double lora_rank) {
    const double decoder = 4 * s.hidden * float_bytes;
    const double heads = s.queries + s.keys + s.values + s.attended;
    const double latent = std::max(s.query_latent, s.kv_latent + s.rotated) + s.expanded;
    const double attention = (heads + latent + s.queries) * float_bytes + (s.hidden + heads + latent) * s.scalar;
    const double mlp_width = std::max(s.dense_layers > 0 ? s.dense : 0, s.shared);
    const double mlp = mlp_width * (4 * float_bytes + 5 * s.scalar);
    // Operands of forward in two parts: inputs of a projection; queries, keys and values, the last two packed besides.
    const double parts = s.scalar < float_bytes ? 2 : 0;
    const double widest = std::max({s.hidden, s.queries, s.attended, mlp_width});
    const double split = parts * (widest + s.queries + std::max(s.keys, s.values) + s.keys + s.values) * s.scalar;
    const double packed = std::max(parts, 1.0) * padded(widest) * s.scalar;
    const double own = decoder + attention + mlp + split + packed + s.experts * float_bytes;
    const double pre_activations = s.retain ? 0 : 2;  // computed again, besides activations and three gradients
    const double routed = (s.hidden + (4 + pre_activations) * padded(s.slice) + 4 * padded(lora_rank)) * s.scalar +
                          std::ceil(s.slice / ops::kernel_block) * float_bytes;
    const double group = 2 * s.hidden * float_bytes;
    // Logits, their gradient, and the gradient packed for the product with the head.
    const double head = ops::targets_per_block * (s.vocabulary + s.hidden) * (float_bytes + 2 * s.scalar);
    return s.own_tokens * own + s.group_tokens * group + s.group_choices * routed + exchange_bytes(s) + head;
}

}  // namespace

double MemoryPlan::total() const {
    return std::accumulate(items.begin(), items.end(), 0.0,
                           [](double sum, const Item& item) { return sum + item.bytes; });
}

double MemoryPlan::of(std::string_view purpose) const {
    const auto found =
        std::find_if(items.begin(), items.end(), [purpose](const Item& item) { return item.purpose == purpose; });
    return found == items.end() ? 0 : found->bytes;
}

MemoryPlan plan_memory(const Architecture& architecture, const model::DecoderSettings& settings,
                       const MemoryRequest& request) {
    const Sizes sizes(architecture, settings, request);
    const std::vector<LayerPlan> layers = layers_of(architecture, settings.lora, request);
    const auto slice_holders = static_cast<double>(request.data_ranks);
    const double expert_holders = slice_holders * static_cast<double>(request.tensor_ranks);
    double factors = 0;
    double moments = 0;
    double reduced = 0;  // gradients, unless a rank's own are the only ones
    for (const auto& [held_by, elements] : lora_elements(layers)) {
        const double holders = held_by == model::Holders::data_group ? slice_holders
                               : held_by == model::Holders::data_and_tensor_groups
                                   ? expert_holders
                                   : expert_holders * sizes.expert_ranks;
        const double owned = std::ceil(elements / holders);
        factors += elements;
        moments += 2 * owned;
        reduced += holders > 1 ? owned : 0;
    }
    index_t lora_rank = 0;  // of routed experts
    for_each_projection(layers, [&](const ProjectionPlan& projection) {
        lora_rank = projection.is_routed() ? std::max(lora_rank, projection.lora_rank) : lora_rank;
    });
    MemoryPlan plan;
    plan.items = {{"frozen weights", weight_bytes(sizes, layers)},
                  {"LoRA factors and gradients", factors * (2 * float_bytes + sizes.scalar)},
                  {"optimizer", request.training ? float_bytes * (moments + reduced) : 0},
                  {"activations", activation_bytes(sizes, layers, request.training)},
                  {"work buffers", buffer_bytes(sizes, static_cast<double>(lora_rank))}};
    return plan;
}

double replicated_parameters(const Architecture& architecture) {
    double parameters = 0;
    for_each_projection(layers_of(architecture, {.rank = 0}, {}), [&](const ProjectionPlan& projection) {
        parameters +=
            projection.is_routed() ? 0 : static_cast<double>(projection.out) * static_cast<double>(projection.in);
    });
    return parameters;
}

}  // namespace moesaic::train
