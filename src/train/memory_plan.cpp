#include "train/memory_plan.hpp"

#include "core/scalar.hpp"
#include "model/blocked_matrix.hpp"
#include "model/loss.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace moesaic::train {
namespace {

using model::Activations;
using model::Architecture;

constexpr auto float_bytes = static_cast<index_t>(sizeof(float));

constexpr index_t share(index_t amount, index_t parts) {
    return (amount + parts - 1) / parts;
}

constexpr index_t padded(index_t extent) {
    return model::blocks_of(extent) * model::block_size;
}

/// Sizes that the parts below share.
struct Sizes {
    Sizes(const Architecture& architecture, const model::DecoderSettings& decoder, const MemoryRequest& request)
        : a(architecture),
          settings(decoder),
          scalar(request.scalar_bytes),
          own_tokens(share(request.tokens, request.data_ranks * request.tensor_ranks)),
          group_tokens(share(request.tokens, request.data_ranks)),
          slice(share(a.expert_intermediate, request.tensor_ranks)),
          queries(a.heads * a.head_size),
          keys(a.kv_heads * a.head_size),
          dense_layers(a.layers - a.moe_layers()) {}

    const Architecture& a;
    const model::DecoderSettings& settings;
    index_t scalar;        ///< bytes
    index_t own_tokens;    ///< of this rank in a pass
    index_t group_tokens;  ///< of its tensor group
    index_t slice;         ///< of the experts' intermediate dimension
    index_t queries;       ///< width of the query projection
    index_t keys;
    index_t dense_layers;
};

/// A projection that every rank holds whole.
struct Projection {
    model::LoraTarget target;
    index_t out;
    index_t in;
};

/// Those of all layers together, each with how often it is there.
std::vector<std::pair<Projection, index_t>> replicated_projections(const Sizes& s) {
    const index_t hidden = s.a.hidden;
    using enum model::LoraTarget;
    return {{{attention, s.queries, hidden}, s.a.layers},                    // queries
            {{attention, s.keys, hidden}, 2 * s.a.layers},                   // keys, values
            {{attention, hidden, s.queries}, s.a.layers},                    // output
            {{dense, s.a.dense_intermediate, hidden}, 3 * s.dense_layers}};  // gate, up, and down the other way round
}

index_t weight_bytes(const Sizes& s) {
    const Architecture& a = s.a;
    index_t elements = a.vocabulary * a.hidden * (a.tied_head ? 1 : 2) +
                       a.moe_layers() * a.experts * 3 * padded(a.hidden) * padded(s.slice);
    for (const auto& [projection, count] : replicated_projections(s)) {
        elements += count * projection.out * projection.in;
    }
    return elements * s.scalar + a.moe_layers() * a.experts * a.hidden * float_bytes;  // routers
}

/// Elements of the LoRA factors of one rank: those that all ranks have whole, and those that are sliced.
struct LoraElements {
    index_t whole = 0;
    index_t sliced = 0;
};

LoraElements lora_elements(const Sizes& s) {
    const model::LoraSettings& lora = s.settings.lora;
    LoraElements elements;
    if (lora.targets.contains(model::LoraTarget::experts)) {
        const index_t per_feature = 3 * s.a.moe_layers() * s.a.experts * lora.rank;
        elements = {per_feature * s.a.hidden, per_feature * s.slice};
    }
    for (const auto& [projection, count] : replicated_projections(s)) {
        if (lora.targets.contains(projection.target)) {
            elements.whole += count * lora.rank * (projection.out + projection.in);
        }
    }
    return elements;
}

/// Bytes per token of the tape's layer and the experts' saved forward.
index_t layer_activation_bytes(const Sizes& s, bool moe) {
    const Architecture& a = s.a;
    const bool retain = s.settings.activations == Activations::retain;
    const index_t wide = 2 * a.hidden + 2 * a.heads + a.kv_heads + 2;
    const index_t narrow = 2 * a.hidden + 3 * (s.queries + s.keys);
    const index_t attention = s.own_tokens * (wide * float_bytes + narrow * s.scalar);
    if (!moe) {
        return attention + (retain ? s.own_tokens * 2 * a.dense_intermediate * s.scalar : 0);
    }
    const index_t routing = s.own_tokens * (a.experts + 2 * a.experts_per_token) * float_bytes;
    model::ExpertConfig config;
    config.hidden = a.hidden;
    config.intermediate = s.slice;
    config.experts_per_token = a.experts_per_token;
    config.lora_rank = s.settings.lora.rank;
    config.activations = s.settings.activations;
    const index_t saved = s.scalar == float_bytes ? model::saved_bytes_per_token<float>(config)
                                                  : model::saved_bytes_per_token<core::bf16>(config);
    return attention + routing + s.group_tokens * saved;
}

index_t activation_bytes(const Sizes& s, bool training) {
    const index_t last = s.own_tokens * s.a.hidden * (2 * float_bytes + s.scalar);
    const index_t moe_layers = training ? s.a.moe_layers() : std::min<index_t>(s.a.moe_layers(), 1);
    const index_t dense_layers = training ? s.dense_layers : 0;
    return last + moe_layers * layer_activation_bytes(s, true) + dense_layers * layer_activation_bytes(s, false);
}

/// Work buffers that layers share.
index_t buffer_bytes(const Sizes& s) {
    const Architecture& a = s.a;
    const index_t routed = s.group_tokens * a.experts_per_token;
    const index_t rank = padded(s.settings.lora.rank);
    const bool recompute = s.settings.activations == Activations::recompute;
    const index_t decoder = s.own_tokens * 4 * a.hidden * float_bytes;
    const index_t attention =
        s.own_tokens * (3 * (s.queries + s.keys) * float_bytes + (a.hidden + 2 * (s.queries + s.keys)) * s.scalar);
    const index_t exchange =
        (s.group_tokens + s.own_tokens) * (a.hidden * s.scalar + 2 * a.experts_per_token * float_bytes) +
        s.own_tokens * a.experts * float_bytes;
    const index_t experts = s.group_tokens * 2 * a.hidden * float_bytes +
                            routed * ((a.hidden + (recompute ? 6 : 4) * padded(s.slice) + 4 * rank) * s.scalar +
                                      model::blocks_of(s.slice) * float_bytes);
    const index_t dense = s.dense_layers > 0 ? s.own_tokens * a.dense_intermediate * (float_bytes + 5 * s.scalar) : 0;
    const index_t head = model::targets_per_block(a.vocabulary) * (a.vocabulary + a.hidden) * (float_bytes + s.scalar);
    return decoder + attention + exchange + experts + dense + head;
}

}  // namespace

std::uint64_t MemoryPlan::total() const {
    return std::accumulate(items.begin(), items.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const Item& item) { return sum + item.bytes; });
}

std::uint64_t MemoryPlan::of(std::string_view purpose) const {
    const auto found =
        std::find_if(items.begin(), items.end(), [purpose](const Item& item) { return item.purpose == purpose; });
    return found == items.end() ? 0 : found->bytes;
}

MemoryPlan plan_memory(const Architecture& architecture, const model::DecoderSettings& settings,
                       const MemoryRequest& request) {
    const Sizes sizes(architecture, settings, request);
    MemoryPlan plan;
    const auto add = [&](std::string_view purpose, index_t bytes) {
        plan.items.push_back({purpose, static_cast<std::uint64_t>(bytes)});
    };
    add("frozen weights", weight_bytes(sizes));
    const LoraElements lora = lora_elements(sizes);
    add("LoRA factors and gradients", (lora.whole + lora.sliced) * (2 * float_bytes + sizes.scalar));
    if (request.training) {
        const index_t owned =
            share(lora.whole, request.data_ranks * request.tensor_ranks) + share(lora.sliced, request.data_ranks);
        add("optimizer", 3 * float_bytes * owned);  // reduced gradients and two moments
    }
    add("activations", activation_bytes(sizes, request.training));
    add("work buffers", buffer_bytes(sizes));
    return plan;
}

}  // namespace moesaic::train
