#include "bench/shapes.hpp"

#include "core/error.hpp"
#include "core/options.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

namespace moesaic::bench {

using core::ExitCode;

std::span<const LayerShape> layer_shapes() {
    // From the config.json of each model: hidden_size, moe_intermediate_size, number of experts, num_experts_per_tok.
    static constexpr LayerShape list[] = {
        {"qwen3-30b-a3b", 2048, 768, 128, 8}, {"qwen3-235b-a22b", 4096, 1536, 128, 8},
        {"deepseek-v3", 7168, 2048, 256, 8},  {"deepseek-v2-lite", 2048, 1408, 64, 6},
        {"mixtral-8x7b", 4096, 14336, 8, 2},
    };
    return list;
}

std::vector<std::string> layer_shape_names() {
    std::vector<std::string> names;
    for (const LayerShape& shape : layer_shapes()) {
        names.emplace_back(shape.name);
    }
    return names;
}

const LayerShape& layer_shape(std::string_view name) {
    const auto shapes = layer_shapes();
    const auto found =
        std::find_if(shapes.begin(), shapes.end(), [name](const LayerShape& shape) { return shape.name == name; });
    if (found == shapes.end()) {
        const auto names = layer_shape_names();
        const std::string near = core::nearest(name, names);
        core::fail(ExitCode::usage, "shape = {} is not known (shapes are {}); {}", name, fmt::join(names, ", "),
                   near.empty() ? "give one of them" : "did you mean " + near + "?");
    }
    return *found;
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
                      "{} = {} is no list of sizes (integers of at least 1, separated by commas); write --{} 16,256",
                      key, list, key);
        sizes.push_back(size);
        begin = stop;
        if (begin == end) {
            return sizes;
        }
    }
}

}  // namespace moesaic::bench
