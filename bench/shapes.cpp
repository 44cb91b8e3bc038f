#include "bench/shapes.hpp"

#include "core/error.hpp"
#include "model/weights/synthetic.hpp"

#include <charconv>

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
    const char* begin = list.data();
    const char* const end = list.data() + list.size();
    for (;; ++begin) {
        index_t size = 0;
        const auto [stop, error] = std::from_chars(begin, end, size);
        core::require(error == std::errc() && size >= 1 && (stop == end || *stop == ','), ExitCode::usage,
                      "{} = {} is no list of numbers (integers of at least 1, separated by commas); write {} = 1,2",
                      key, list, key);
        sizes.push_back(size);
        begin = stop;
        if (begin == end) {
            return sizes;
        }
    }
}

}  // namespace moesaic::bench
