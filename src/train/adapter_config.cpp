#include "train/adapter_config.hpp"

#include "core/error.hpp"
#include "io/json.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace moesaic::train {
namespace {

using core::ExitCode;
using nlohmann::json;

/// Refuses an option of PEFT unless it has its neutral value, is null or empty.
void refuse(const json& config, const std::string& key, const json& neutral, const std::string& source) {
    const auto found = config.find(key);
    const bool absent =
        found == config.end() || found->is_null() || *found == neutral || (found->is_structured() && found->empty());
    core::require(absent, ExitCode::usage, "{}: {} = {} is not supported (only {} is); use an adapter without it",
                  source, key, absent ? "" : found->dump().substr(0, 80), neutral.dump());
}

/// What changes how an adapter acts, or what it belongs to. Keys that say only how it was initialised, or how modules
/// were chosen, are not here: the tensors in the file say which modules there are.
void refuse_unsupported(const json& config, const std::string& source) {
    for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"}) {
        refuse(config, key, false, source);
    }
    refuse(config, "bias", "none", source);
    for (const char* key : {"modules_to_save", "layer_replication", "trainable_token_indices", "arrow_config",
                            "alora_invocation_tokens", "use_bdlora", "kasa_config", "velora_config"}) {
        refuse(config, key, nullptr, source);
    }
    const auto init = io::get_or<json>(config, "init_lora_weights", true, source);
    const std::set<json> plain = {true, false, "gaussian", "eva", "orthogonal"};
    core::require(plain.count(init) > 0, ExitCode::usage,
                  "{}: init_lora_weights = {} is not supported (it changes the base model's weights); convert the "
                  "adapter with PEFT's path_initial_model_for_weight_conversion",
                  source, init.dump().substr(0, 80));
}

model::ModulePatterns read_patterns(const json& config, const std::string& key, const std::string& source) {
    model::ModulePatterns patterns;
    const auto found = io::get_or<json>(config, key, json::object(), source);
    core::require(found.is_object(), ExitCode::corrupt_input, "{}: {} is no object; correct the file", source, key);
    for (const auto& [pattern, value] : found.items()) {
        const auto number = io::get<double>(found, pattern, source);
        core::require(number > 0, ExitCode::corrupt_input, "{}: {} has {} = {} (must be positive); correct the file",
                      source, key, pattern, number);
        patterns.add(source, pattern, number);
    }
    return patterns;
}

/// alpha of a module: what `LoraSettings::scale` undoes. Whole numbers as PEFT writes them.
json alpha_of(const model::LoraSettings& settings, const model::AdapterSpec& spec) {
    const double alpha = spec.scale / settings.scale(spec.lora_rank, 1);
    const double nearest = std::round(alpha);
    if (std::abs(alpha - nearest) <= 1e-9 * alpha && nearest < 1e9) {
        return static_cast<std::int64_t>(nearest);
    }
    return alpha;
}

std::string last_part(const std::string& name) {
    return name.substr(name.rfind('.') + 1);
}

std::string escaped(const std::string& name) {
    std::string expression;
    for (const char c : name) {
        expression += c == '.' ? "\\." : std::string(1, c);
    }
    return expression;
}

/// A pattern for every value that differs from `usual`: the last part of a name where it says enough, else the whole.
json patterns_of(const std::vector<AdaptedModule>& modules, const std::vector<json>& values, const json& usual) {
    std::map<std::string, std::set<json>> values_of_last_part;
    for (std::size_t i = 0; i < modules.size(); ++i) {
        values_of_last_part[last_part(modules[i].name)].insert(values[i]);
    }
    json patterns = json::object();
    for (std::size_t i = 0; i < modules.size(); ++i) {
        if (values[i] != usual) {
            const std::string last = last_part(modules[i].name);
            patterns[values_of_last_part[last].size() == 1 ? last : escaped(modules[i].name)] = values[i];
        }
    }
    return patterns;
}

}  // namespace

model::LoraSettings read_adapter_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / adapter_config_name;
    const std::string source = file.string();
    const json config = io::read_json(file);
    const auto type = io::get<std::string>(config, "peft_type", source);
    core::require(type == "LORA", ExitCode::usage,
                  "{}: peft_type = \"{}\" is not supported (only \"LORA\" is); use a LoRA adapter", source, type);
    refuse_unsupported(config, source);
    model::LoraSettings settings;
    settings.rank = io::get_size(config, "r", source);
    settings.alpha = io::get<double>(config, "lora_alpha", source);
    settings.rank_stabilised = io::get_or<bool>(config, "use_rslora", false, source);
    settings.rank_pattern = read_patterns(config, "rank_pattern", source);
    settings.alpha_pattern = read_patterns(config, "alpha_pattern", source);
    core::require(settings.alpha > 0, ExitCode::corrupt_input, "{}: lora_alpha = {} must be positive; correct the file",
                  source, settings.alpha);
    return settings;
}

nlohmann::json adapter_config(const std::string& base_model, const model::LoraSettings& settings,
                              const std::vector<AdaptedModule>& modules) {
    std::set<std::string> targets;
    std::vector<std::string> parameters;  // in the order in which PEFT nests their adapters
    std::vector<json> lora_ranks;
    std::vector<json> alphas;
    for (const AdaptedModule& module : modules) {
        const std::string name = last_part(module.name);
        if (!module.is_parameter) {
            targets.insert(name);
        } else if (std::find(parameters.begin(), parameters.end(), name) == parameters.end()) {
            parameters.push_back(name);
        }
        lora_ranks.push_back(module.spec.lora_rank);
        alphas.push_back(alpha_of(settings, module.spec));
    }
    const json alpha = alpha_of(settings, {settings.rank, settings.scale(settings.rank, settings.alpha)});
    json config = {{"peft_type", "LORA"},
                   {"task_type", "CAUSAL_LM"},
                   {"base_model_name_or_path", base_model},
                   {"r", settings.rank},
                   {"lora_alpha", alpha},
                   {"rank_pattern", patterns_of(modules, lora_ranks, settings.rank)},
                   {"alpha_pattern", patterns_of(modules, alphas, alpha)},
                   {"lora_dropout", settings.dropout},
                   {"use_rslora", settings.rank_stabilised},
                   {"bias", "none"},
                   {"target_modules", targets},
                   {"inference_mode", true},
                   {"use_dora", false},
                   {"fan_in_fan_out", false},
                   {"init_lora_weights", true},
                   {"modules_to_save", nullptr}};
    if (!parameters.empty()) {
        config["target_parameters"] = parameters;
    }
    return config;
}

}  // namespace moesaic::train
