#include "bench/shapes.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "model/weights/synthetic.hpp"

namespace moesaic::bench {

using core::ExitCode;

LayerShape layer_shape(std::string_view name) {
    const model::Architecture architecture = model::synthetic_architecture(name, "shape");
    return {std::string(name), architecture.hidden, architecture.expert_intermediate, architecture.experts,
            architecture.experts_per_token};
}

LayerShape LayerShape::with(const LayerShape& other) const {
    LayerShape result = *this;
    bool changed = false;
    for (index_t LayerShape::*const size :
         {&LayerShape::hidden, &LayerShape::intermediate, &LayerShape::experts, &LayerShape::experts_per_token}) {
        if (other.*size > 0 && other.*size != this->*size) {
            result.*size = other.*size;
            changed = true;
        }
    }
    if (changed) {
        result.name = "of given sizes";
    }
    core::require(result.experts_per_token <= result.experts, ExitCode::usage,
                  "experts-per-token = {} exceeds experts = {}; lower --experts-per-token or raise --experts",
                  result.experts_per_token, result.experts);
    return result;
}

std::vector<index_t> parse_sizes(std::string_view key, std::string_view list) {
    std::vector<index_t> sizes;
    for (const std::string& item : core::split(std::string(list))) {
        const index_t size = core::parse_size(item).value_or(0);
        core::require(
            size >= 1, ExitCode::usage,
            "{} = {} is no list of numbers (integers of at least 1, as 64 or 64K, separated by commas); write "
            "{} = 1,2",
            key, list, key);
        sizes.push_back(size);
    }
    return sizes;
}

}  // namespace moesaic::bench
