#include "model/families/architecture.hpp"

#include "core/error.hpp"
#include "io/json.hpp"
#include "model/families/families.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace moesaic::model {

std::string Architecture::layer(index_t index) const {
    return fmt::format("model.layers.{}.", index);
}

std::string Architecture::expert_module(index_t layer_index, index_t expert, const std::string& projection) const {
    return layer(layer_index) + fmt::format(fmt::runtime(names.expert), expert) + "." + projection;
}

std::string Architecture::experts_module(index_t layer_index, const std::string& projection) const {
    constexpr std::string_view number = ".{}";
    std::string folder = names.expert;
    return layer(layer_index) + folder.erase(folder.find(number), number.size()) + "." + projection;
}

index_t Architecture::moe_layers() const {
    return std::count(is_moe.begin(), is_moe.end(), true);
}

void Architecture::limit_layers(index_t count) {
    layers = std::min(layers, count);
    is_moe.resize(static_cast<std::size_t>(layers));
    mixers.resize(static_cast<std::size_t>(layers));
    attention.windows.resize(static_cast<std::size_t>(layers));
}

const std::vector<Family>& families() {
    static const std::vector<Family> all = {{"deepseek_v2", read_deepseek_v2, keys_of_deepseek_v2()},
                                            {"deepseek_v3", read_deepseek_v3, keys_of_deepseek_v3()},
                                            {"glm4_moe", read_glm4_moe, keys_of_glm4_moe()},
                                            {"kimi_k2", read_deepseek_v3, keys_of_deepseek_v3()},
                                            {"mixtral", read_mixtral, keys_of_mixtral()},
                                            {"olmoe", read_olmoe, keys_of_olmoe()},
                                            {"qwen2_moe", read_qwen2_moe, keys_of_qwen2_moe()},
                                            {"qwen3_moe", read_qwen3_moe, keys_of_qwen3_moe()}};
    return all;
}

Architecture read_architecture(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "config.json";
    const nlohmann::json config = io::read_json(file);
    Architecture architecture = read_architecture(config, file.string());
    architecture.quantisation = read_quantisation(config, folder);
    return architecture;
}

Architecture read_architecture(const nlohmann::json& config, const std::string& source) {
    using core::ExitCode;
    const auto model_type = io::get<std::string>(config, "model_type", source);
    const auto found = std::find_if(families().begin(), families().end(),
                                    [&](const Family& family) { return family.model_type == model_type; });
    if (found == families().end()) {
        std::vector<std::string> known;
        std::transform(families().begin(), families().end(), std::back_inserter(known),
                       [](const Family& family) { return family.model_type; });
        core::fail(ExitCode::usage,
                   "{}: model_type \"{}\" is not supported (supported: {}); use a model of these families", source,
                   core::printable(model_type, 80), fmt::join(known, ", "));
    }
    const Configuration configuration(config, found->keys, source);
    Architecture architecture = found->read(configuration);
    architecture.warning = io::describe_unknown_keys(configuration.unknown(), source);
    architecture.family = model_type;
    return architecture;
}

}  // namespace moesaic::model
