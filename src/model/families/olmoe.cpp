#include "core/error.hpp"
#include "model/families/common.hpp"
#include "model/families/families.hpp"

namespace moesaic::model {

Architecture read_olmoe(const Configuration& config) {
    Architecture architecture = read_common(config);
    read_grouped_attention(config, 1, architecture);
    refuse_windows(config, architecture);
    AttentionSettings& attention = architecture.attention;
    attention.norm = ops::HeadNorm::all_heads;
    attention.input_bias = attention.output_bias = config.get_or<bool>("attention_bias", false);
    attention.clip = config.get_or<double>("clip_qkv", 0);
    core::require(attention.clip >= 0, core::ExitCode::corrupt_input,
                  "{}: clip_qkv = {} must be positive; correct the file", config.source(), attention.clip);
    read_experts(config, "intermediate_size", architecture);
    architecture.router.normalize = config.get_or<bool>("norm_topk_prob", false);
    return architecture;
}

}  // namespace moesaic::model
