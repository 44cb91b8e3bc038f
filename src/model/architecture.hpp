// What a model is made of: sizes, which layers are MoE, and how its tensors are called in the checkpoint.
#pragma once

#include "core/matrix.hpp"

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moesaic::model {

using core::index_t;

/// Names of a family's tensors below "model.layers.{layer}."; "{}" in `expert` stands for the expert's number.
struct TensorNames {
    std::string router;
    std::string expert;  ///< folder of one expert, for example "mlp.experts.{}"
    std::string gate;    ///< projections below `expert`, and below `dense` in dense layers
    std::string up;
    std::string down;
    std::string dense;
};

/// A decoder-only model, read from the `config.json` of a Hugging Face checkpoint.
struct Architecture {
    std::string family;
    index_t hidden = 0;  ///< H
    index_t layers = 0;
    index_t vocabulary = 0;  ///< V
    index_t heads = 0;
    index_t kv_heads = 0;
    index_t head_size = 0;
    index_t dense_intermediate = 0;   ///< of layers without experts
    index_t experts = 0;              ///< E
    index_t experts_per_token = 0;    ///< K
    index_t expert_intermediate = 0;  ///< I
    index_t max_positions = 0;
    std::vector<bool> is_moe;               ///< per layer
    bool normalize_expert_weights = false;  ///< the K chosen probabilities are divided by their sum
    bool tied_head = false;                 ///< the head is the embedding
    double norm_epsilon = 0;
    double rope_theta = 0;
    TensorNames names;

    [[nodiscard]] std::string layer(index_t index) const;
    /// Full name of projection `projection` (one of names.gate, up, down) of an expert, without ".weight".
    [[nodiscard]] std::string expert_module(index_t layer_index, index_t expert, const std::string& projection) const;
    [[nodiscard]] index_t moe_layers() const;
    /// Leaves the layers from `count` on out, if there are so many.
    void limit_layers(index_t count);
};

/// Reads FOLDER/config.json. A family or feature that is not supported is refused by name; a missing or wrong field is
/// an error that names it.
[[nodiscard]] Architecture read_architecture(const std::filesystem::path& folder);
/// The same for the contents of such a file; `source` is its name in messages.
[[nodiscard]] Architecture read_architecture(const nlohmann::json& config, const std::string& source);

/// A model family: the `model_type` of transformers and how its configuration is read.
struct Family {
    std::string model_type;
    Architecture (*read)(const nlohmann::json& config, const std::string& source);
};

/// All families; a new one is a file in `families/` and a line here.
[[nodiscard]] const std::vector<Family>& families();

}  // namespace moesaic::model
