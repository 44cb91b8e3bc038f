#include "core/error.hpp"
#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

#include <algorithm>

namespace moesaic::model {

Architecture read_qwen3_moe(const nlohmann::json& config, const std::string& source) {
    refuse_unless(config, "attention_bias", false, source);
    refuse_unless(config, "use_sliding_window", false, source);
    Architecture architecture = read_common(config, source);
    read_expert_counts(config, source, architecture);
    architecture.expert_intermediate = io::get_size(config, "moe_intermediate_size", source);
    architecture.normalize_expert_weights = io::get_or<bool>(config, "norm_topk_prob", false, source);
    architecture.names = {"mlp.gate", "mlp.experts.{}", "gate_proj", "up_proj", "down_proj", "mlp"};

    const index_t step = io::get_size_or(config, "decoder_sparse_step", 1, source);
    const auto dense_layers = io::get_or<std::vector<index_t>>(config, "mlp_only_layers", {}, source);
    for (index_t layer = 0; layer < architecture.layers; ++layer) {
        const bool listed = std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end();
        architecture.is_moe.push_back(!listed && (layer + 1) % step == 0);
    }
    const bool has_dense = architecture.moe_layers() < architecture.layers;
    core::require(!has_dense || architecture.dense_intermediate > 0, core::ExitCode::corrupt_input,
                  "{}: intermediate_size is missing, but some layers are dense; complete the file", source);
    return architecture;
}

}  // namespace moesaic::model
