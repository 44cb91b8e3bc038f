#include "core/error.hpp"
#include "io/json.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_olmoe(const nlohmann::json& config, const std::string& source) {
    Architecture architecture = read_common(config, source);
    read_grouped_attention(config, source, 1, architecture);
    refuse_windows(config, source, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = HeadNorm::all_heads;
    attention.input_bias = attention.output_bias = io::get_or<bool>(config, "attention_bias", false, source);
    attention.clip = io::get_or<double>(config, "clip_qkv", 0, source);
    core::require(attention.clip >= 0, core::ExitCode::corrupt_input,
                  "{}: clip_qkv = {} must be positive; correct the file", source, attention.clip);
    read_experts(config, source, "intermediate_size", architecture);
    architecture.router.normalize = io::get_or<bool>(config, "norm_topk_prob", false, source);
    return architecture;
}

}  // namespace moesaic::model
