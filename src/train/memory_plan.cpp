#include "train/memory_plan.hpp"

#include "core/scalar.hpp"
#include "ops/loss.hpp"
#include "ops/weights/packed_weights.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

namespace moesaic::train {
namespace {

using model::Architecture;
using model::AttentionKind;
using model::AttentionSettings;
using model::LoraTarget;
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
    return std::ceil(extent / ops::block_size) * ops::block_size;
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
        if (attention.kind == AttentionKind::latent) {
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

/// Projections that every rank holds whole.
struct Projections {
    LoraTarget target;
    double out;
    double in;
    double count;  ///< in all layers
};

std::vector<Projections> replicated_projections(const Sizes& s) {
    std::vector<Projections> all = {{LoraTarget::attention, s.hidden, s.attended, s.layers},
                                    {LoraTarget::dense, s.dense, s.hidden, 3 * s.dense_layers},
                                    {LoraTarget::shared, s.shared, s.hidden, 3 * s.moe_layers}};
    const auto add = [&](double out, double in) { all.push_back({LoraTarget::attention, out, in, s.layers}); };
    if (s.attention.kind == AttentionKind::grouped) {
        add(s.queries, s.hidden);
        add(s.keys, s.hidden);
        add(s.values, s.hidden);
        return all;
    }
    if (s.query_latent > 0) {
        add(s.query_latent, s.hidden);
        add(s.queries, s.query_latent);
    } else {
        add(s.queries, s.hidden);
    }
    add(s.kv_latent + s.rotated, s.hidden);
    add(s.expanded, s.kv_latent);
    return all;
}

/// Bytes of a matrix [rows, cols].
double packed(ops::WeightFormat format, double rows, double cols) {
    const index_t of_strip = ops::PackedWeights::bytes_of(format, ops::block_size, static_cast<index_t>(cols));
    return padded(rows) / ops::block_size * static_cast<double>(of_strip);
}

double weight_bytes(const Sizes& s) {
    const auto format = [&](std::optional<ops::WeightFormat> stored) {
        return s.scalar == float_bytes ? ops::format_for<float>(stored) : ops::format_for<core::bf16>(stored);
    };
    const ops::WeightFormat others = format(s.a.stored.others);
    const ops::WeightFormat experts = format(s.a.stored.experts);
    double bytes =
        packed(others, s.vocabulary, s.hidden) * (s.a.tied_head ? 1 : 2) +
        s.moe_layers * s.held_experts * (2 * packed(experts, s.slice, s.hidden) + packed(experts, s.hidden, s.slice));
    for (const Projections& projections : replicated_projections(s)) {
        bytes += projections.count * packed(others, projections.out, projections.in);
    }
    return bytes + s.moe_layers * s.experts * s.hidden * float_bytes;  // routers
}

/// Elements of the LoRA factors of one rank: those that all ranks have, those of its experts that the ranks of its
/// tensor group have whole, and those that are sliced.
struct LoraElements {
    double replicated = 0;
    double of_experts = 0;
    double sliced = 0;

    [[nodiscard]] double all() const { return replicated + of_experts + sliced; }
};

LoraElements lora_elements(const Sizes& s) {
    const model::LoraSettings& lora = s.settings.lora;
    const auto rank = static_cast<double>(lora.rank);
    LoraElements elements;
    if (lora.targets.contains(LoraTarget::experts)) {
        const double per_feature = 3 * s.moe_layers * s.held_experts * rank;
        elements.of_experts = per_feature * s.hidden;
        elements.sliced = per_feature * s.slice;
    }
    for (const Projections& projections : replicated_projections(s)) {
        if (lora.targets.contains(projections.target)) {
            elements.replicated += projections.count * rank * (projections.out + projections.in);
        }
    }
    return elements;
}

/// Per token of this rank: model::LayerTape without what belongs to one kind of layer.
double attention_tape_bytes(const Sizes& s) {
    const double normalised = s.attention.norm == ops::HeadNorm::none ? 0 : s.queries + s.keys;
    const double latent = 2 * (s.query_latent + s.kv_latent);  // before and after its norm
    const double narrow = 2 * s.hidden + s.queries + s.keys + s.values + s.attended + normalised + latent;
    const double wide = 2 * s.hidden + 3 * s.heads + 2;
    return wide * float_bytes + narrow * s.scalar;
}

double activation_bytes(const Sizes& s, bool training) {
    const double moe_layers = training ? s.moe_layers : std::min(s.moe_layers, 1.0);  // one tape serves all layers
    const double dense_layers = training ? s.dense_layers : 0;
    const double mlp = s.retain ? 2 * s.scalar : 0;  // gate and up
    const double routing = (s.experts + 2 * s.choices + 1) * float_bytes;
    const double own = (moe_layers + dense_layers) * attention_tape_bytes(s) + dense_layers * mlp * s.dense +
                       moe_layers * (mlp * s.shared + routing) + s.hidden * (2 * float_bytes + s.scalar);
    ops::ExpertConfig config;
    config.hidden = s.a.hidden;
    config.intermediate = static_cast<index_t>(s.slice);
    config.lora_rank = s.settings.lora.rank;
    config.activations = s.settings.activations;
    const auto saved = [&](index_t choices) {
        config.experts_per_token = choices;
        return static_cast<double>(s.scalar == float_bytes ? ops::saved_bytes_per_token<float>(config)
                                                           : ops::saved_bytes_per_token<core::bf16>(config));
    };
    const double routed = s.group_tokens * saved(0) + s.group_choices * (saved(1) - saved(0));
    return s.own_tokens * own + moe_layers * routed;
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
double buffer_bytes(const Sizes& s) {
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
    const double routed =
        (s.hidden + (4 + pre_activations) * padded(s.slice) + 4 * padded(static_cast<double>(s.settings.lora.rank))) *
            s.scalar +
        std::ceil(s.slice / ops::block_size) * float_bytes;
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
    const LoraElements lora = lora_elements(sizes);
    const double slice_holders = static_cast<double>(request.data_ranks);
    const double expert_holders = slice_holders * static_cast<double>(request.tensor_ranks);
    const double ranks = expert_holders * static_cast<double>(request.expert_ranks);
    double moments = 0;
    double reduced = 0;  // gradients, unless a rank's own are the only ones
    for (const auto& [elements, holders] :
         {std::pair{lora.replicated, ranks}, {lora.of_experts, expert_holders}, {lora.sliced, slice_holders}}) {
        const double owned = std::ceil(elements / holders);
        moments += 2 * owned;
        reduced += holders > 1 ? owned : 0;
    }
    MemoryPlan plan;
    plan.items = {{"frozen weights", weight_bytes(sizes)},
                  {"LoRA factors and gradients", lora.all() * (2 * float_bytes + sizes.scalar)},
                  {"optimizer", request.training ? float_bytes * (moments + reduced) : 0},
                  {"activations", activation_bytes(sizes, request.training)},
                  {"work buffers", buffer_bytes(sizes)}};
    return plan;
}

double replicated_parameters(const Architecture& architecture) {
    double parameters = 0;
    for (const Projections& projections : replicated_projections(Sizes(architecture, {}, {}))) {
        parameters += projections.count * projections.out * projections.in;
    }
    return parameters;
}

}  // namespace moesaic::train
