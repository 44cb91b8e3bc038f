// What a model is made of: sizes, kinds of attention and router, which layers are MoE, and how its tensors are called
// in the checkpoint.
#pragma once

#include "core/matrix.hpp"
#include "io/known_keys.hpp"
#include "model/families/quantisation.hpp"
#include "ops/head_transform.hpp"
#include "ops/rope.hpp"
#include "ops/router.hpp"
#include "ops/weights/weight_format.hpp"

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::model {

using core::index_t;
class Configuration;  // families/configuration.hpp

/// How the rows of a sequence see each other in a layer.
enum class MixerKind : std::uint8_t {
    grouped_attention,  ///< queries, keys and values are projections of the input; several query heads share a key head
    latent_attention,   ///< keys and values, maybe queries too, come from a compressed vector (DeepSeek-V2, 2024)
};

/// Of all layers with attention. Members that their kind does not use keep their defaults.
struct AttentionSettings {
    index_t heads = 0;
    index_t kv_heads = 0;
    index_t head_size = 0;   ///< D, of queries and keys
    index_t value_size = 0;  ///< Dv
    double scale = 0;        ///< on scores
    ops::RopeSettings rope;
    std::vector<index_t> windows;  ///< per layer; 0: a token sees all before it
    ops::HeadNorm norm = ops::HeadNorm::none;
    bool input_bias = false;   ///< grouped: of query, key and value; latent: of the compressing projections
    bool output_bias = false;  ///< of the output projection
    double clip = 0;           ///< bound of queries, keys and values before rotation; 0: none
    index_t query_rank = 0;    ///< latent: size of compressed queries; 0: they are not compressed
    index_t kv_rank = 0;       ///< latent: size of compressed keys and values
};

/// A dense network beside the routed experts that every token goes through.
struct SharedExpertSettings {
    index_t intermediate = 0;  ///< 0: there is none
    bool gated = false;        ///< its output is multiplied by the sigmoid of a projection of the input
};

/// Names of a family's tensors below "model.layers.{layer}."; "{}" in `expert` stands for the expert's number.
struct TensorNames {
    std::string router = "mlp.gate";
    std::string expert = "mlp.experts.{}";  ///< folder of one expert
    std::string gate = "gate_proj";         ///< projections below `expert`, and below `dense` in dense layers
    std::string up = "up_proj";
    std::string down = "down_proj";
    std::string dense = "mlp";
    std::string shared;  ///< folder of the shared expert
    std::string shared_gate;

    /// Where every family has experts in the fused layout, and the router beside them.
    static constexpr const char* fused_experts = "mlp.experts.";
    static constexpr const char* fused_router = "mlp.gate";
};

/// How a checkpoint stores matrices, as far as all of a kind have the same format. Routers and norms are in none:
/// models have them at full precision.
struct StoredFormats {
    std::optional<ops::WeightFormat> experts;      ///< routed ones
    std::optional<ops::WeightFormat> projections;  ///< all others in layers
    std::optional<ops::WeightFormat> embedding;    ///< and head
};

/// A decoder-only model, read from the `config.json` of a Hugging Face checkpoint.
struct Architecture {
    std::string family;
    index_t hidden = 0;  ///< H
    index_t layers = 0;
    index_t positions = 0;          ///< of a sequence that the model was made for; longer ones are computed, too
    index_t vocabulary = 0;         ///< V
    std::vector<MixerKind> mixers;  ///< per layer
    AttentionSettings attention;
    index_t dense_intermediate = 0;   ///< of layers without experts
    index_t experts = 0;              ///< E
    index_t experts_per_token = 0;    ///< K
    index_t expert_intermediate = 0;  ///< I
    SharedExpertSettings shared;
    ops::RouterSettings router;
    std::vector<bool> is_moe;  ///< per layer
    bool tied_head = false;    ///< the head is the embedding
    double norm_epsilon = 0;
    TensorNames names;
    Quantisation quantisation;
    StoredFormats stored;  ///< nothing in config.json says it reliably: see stored_formats
    std::string warning;   ///< what users should know of how the file was read, one line, or nothing

    [[nodiscard]] std::string layer(index_t index) const;
    /// Full name of projection `projection` (one of names.gate, up, down) of an expert, without ".weight".
    [[nodiscard]] std::string expert_module(index_t layer_index, index_t expert, const std::string& projection) const;
    /// The same of all experts together: without a number.
    [[nodiscard]] std::string experts_module(index_t layer_index, const std::string& projection) const;
    [[nodiscard]] index_t moe_layers() const;
    /// Leaves the layers from `count` on out, if there are so many.
    void limit_layers(index_t count);
};

/// Reads FOLDER/config.json. A family or feature that is not supported is refused by name; a missing or wrong field is
/// an error that names it.
[[nodiscard]] Architecture read_architecture(const std::filesystem::path& folder);
/// The same for the contents of such a file; `source` is its name in messages.
[[nodiscard]] Architecture read_architecture(const nlohmann::json& config, const std::string& source);

/// A model family: the `model_type` of transformers, the keys of its configuration, and how it is read.
struct Family {
    std::string model_type;
    Architecture (*read)(const Configuration& config);
    io::KnownKeys keys;
};

/// All families; a new one is a file in `families/` and a line here.
[[nodiscard]] const std::vector<Family>& families();

}  // namespace moesaic::model
