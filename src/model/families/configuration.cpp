#include "model/families/configuration.hpp"

#include "core/error.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace moesaic::model {
namespace {

/// What names of features that change the mathematics have in them.
constexpr std::array parts_of_models = {
    "activation", "attention", "attn", "bias",   "cap",        "chunk",    "clip",   "compress", "conv",
    "embed",      "expert",    "gate", "gating", "head",       "index",    "latent", "layer",    "linear",
    "mamba",      "mlp",       "moe",  "norm",   "multiplier", "position", "quant",  "residual", "rope",
    "rotary",     "rout",      "scal", "sparse", "ssm",        "window"};

/// Keys with such names that have no influence where the family's reader does not ask for them, in transformers either:
/// ways of computing, settings of training from scratch, multi-token prediction, repetitions, and details of features
/// that are switched off.
constexpr std::array without_influence = {
    "attn_implementation",  "chunk_size_feed_forward", "experts_implementation",   "output_attentions",
    "output_router_logits", "router_aux_loss_coef",    "num_nextn_predict_layers", "head_dim",
    "num_experts",          "num_local_experts",       "n_routed_experts",         "rope_scaling",
    "sliding_window",       "max_window_layers",       "mlp_only_layers",          "norm_topk_prob",
    "use_flash_attn",       "max_position_embeddings"};

/// Whether the value switches a feature off, in the ways in which configurations do so.
bool says_off(const nlohmann::json& value) {
    return value.is_null() || value == false || value == 0 ||
           (value.is_string() && value.get_ref<const std::string&>().empty()) ||
           (value.is_structured() && value.empty());
}

}  // namespace

bool Configuration::has(const std::string& key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
}

void Configuration::refuse_unless(const std::string& key, const nlohmann::json& supported) const {
    if (!has(read(key)) || object_[key] == supported) {
        return;
    }
    core::fail(core::ExitCode::usage, "{}: {} = {} is not supported (only {} is); use a model without it", source_, key,
               object_[key].dump().substr(0, 80), supported.dump());
}

void Configuration::refuse_unread() const {
    for (const auto& [key, value] : object_.items()) {
        const bool suspicious =
            std::any_of(parts_of_models.begin(), parts_of_models.end(),
                        [&key = key](std::string_view part) { return key.find(part) != std::string::npos; });
        const bool harmless = key.starts_with('_') || std::find(without_influence.begin(), without_influence.end(),
                                                                key) != without_influence.end();
        core::require(
            !suspicious || harmless || read_.contains(key) || says_off(value), core::ExitCode::usage,
            "{}: {} = {} is not supported (nothing computes it); use a model without it, or remove the key if "
            "it changes nothing",
            source_, key.substr(0, 80), value.dump().substr(0, 80));
    }
}

}  // namespace moesaic::model
