#include "train/adapter_config.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/files.hpp"
#include "io/json.hpp"
#include "io/known_keys.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

namespace moesaic::train {
namespace {

using core::ExitCode;
using nlohmann::json;

constexpr std::size_t longest_config = std::size_t{64} << 20U;

/// The fields of PEFT's LoraConfig, up to version 0.21, with its defaults. What is ignored says how an adapter was
/// initialised, how modules were chosen (the tensors in the file say which there are), or how PEFT computes.
const io::KnownKeys& lora_config_keys() {
    static const io::KnownKeys keys = {
        .required = {"peft_type", "rank_pattern", "alpha_pattern"},
        .defaults = {{"r", 8}, {"lora_alpha", 8}, {"use_rslora", false}, {"init_lora_weights", true}},
        .only = {{"bias", "none"},
                 {"alora_invocation_tokens", nullptr},
                 {"arrow_config", nullptr},
                 {"enable_lora", nullptr},
                 {"fan_in_fan_out", nullptr},
                 {"kasa_config", nullptr},
                 {"layer_replication", nullptr},
                 {"lora_bias", nullptr},
                 {"modules_to_save", nullptr},
                 {"monteclora_config", nullptr},
                 {"trainable_token_indices", nullptr},
                 {"use_bdlora", nullptr},
                 {"use_dora", nullptr},
                 {"use_qalora", nullptr},
                 {"velora_config", nullptr}},
        .ignored = {"auto_mapping",      "base_model_name_or_path",
                    "corda_config",      "ensure_weight_tying",
                    "eva_config",        "exclude_modules",
                    "inference_mode",    "layers_pattern",
                    "loftq_config",      "layers_to_transform",
                    "lora_dropout",      "lora_ga_config",
                    "megatron_config",   "megatron_core",
                    "merge_weights",     "peft_version",
                    "qalora_group_size", "revision",
                    "runtime_config",    "target_modules",
                    "target_parameters", "task_type"}};
    return keys;
}

void refuse_foreign_base(const json& config, const std::string& source) {
    const auto init = io::get_or<json>(config, "init_lora_weights", true, source);
    const std::set<json> plain = {true, false, "gaussian", "eva", "orthogonal"};
    core::require(plain.count(init) > 0, ExitCode::usage,
                  "{}: init_lora_weights = {} is not supported (it changes the base model's weights); convert the "
                  "adapter with PEFT's path_initial_model_for_weight_conversion",
                  source, core::printable(init.dump(), 80));
}

/// In the order of the file: the first pattern that matches counts.
model::ModulePatterns read_patterns(const json& config, const std::string& key, const std::string& text,
                                    const std::string& source) {
    model::ModulePatterns patterns;
    const auto found = io::get_or<json>(config, key, json::object(), source);
    core::require(found.is_object(), ExitCode::corrupt_input, "{}: {} is no object; correct the file", source, key);
    for (const std::string& pattern : io::keys_in_order(text, key)) {
        const auto number = io::get<double>(found, pattern, source);
        core::require(number > 0, ExitCode::corrupt_input, "{}: {} has {} = {} (must be positive); correct the file",
                      source, key, core::printable(pattern, 80), number);
        patterns.add(fmt::format("{}: {}", source, key), pattern, number);
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

AdapterConfig read_adapter_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / adapter_config_name;
    const std::string source = file.string();
    const std::string text = io::read_file(file, longest_config);
    const json config = io::parse_json(text, source);
    const auto type = io::get<std::string>(config, "peft_type", source);
    core::require(type == "LORA", ExitCode::usage,
                  "{}: peft_type = \"{}\" is not supported (only \"LORA\" is); use a LoRA adapter", source,
                  core::printable(type, 80));
    const io::KnownKeys& keys = lora_config_keys();
    const std::array tables = {&keys};
    AdapterConfig result;
    model::LoraSettings& settings = result.settings;
    if (const std::string unknown = io::describe_unknown_keys(io::judge_keys(config, tables, source), source);
        !unknown.empty()) {
        settings.warnings.push_back(unknown);
    }
    refuse_foreign_base(config, source);
    json complete = keys.defaults;
    complete.update(config);
    settings.rank = io::get_size(complete, "r", source);
    settings.alpha = io::get<double>(complete, "lora_alpha", source);
    settings.rank_stabilised = io::get_or<bool>(complete, "use_rslora", false, source);
    settings.rank_pattern = read_patterns(config, "rank_pattern", text, source);
    settings.alpha_pattern = read_patterns(config, "alpha_pattern", text, source);
    core::require(settings.alpha > 0 && settings.alpha <= model::largest_alpha, ExitCode::corrupt_input,
                  "{}: lora_alpha = {} must be positive, and at most {}; correct the file", source, settings.alpha,
                  model::largest_alpha);
    if (const auto targets = io::get_or<json>(config, "target_modules", json(), source); targets.is_array()) {
        result.target_modules = io::get<std::vector<std::string>>(config, "target_modules", source);
    }
    return result;
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
