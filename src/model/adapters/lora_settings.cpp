#include "model/adapters/lora_settings.hpp"

#include "core/error.hpp"
#include "core/options.hpp"
#include "ops/lora.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

constexpr index_t largest_rank = 65536;

}  // namespace

void LoraSettings::declare(core::OptionSet& set) {
    set.add("lora.rank", rank, "rank of the adapters", core::integer_within(1, largest_rank))
        .known_as({"r", "lora_rank", "lora_r"});
    set.add("lora.alpha", alpha, "what adapters add is multiplied by lora.alpha / lora.rank",
            core::within(1 / largest_alpha, largest_alpha))
        .known_as({"lora_alpha"});
    set.add_enum("lora.targets", targets,
                 "what gets adapters: a list of experts, attention, shared (experts), dense (layers without experts)")
        .known_as({"target_modules", "lora_target", "lora_target_modules"});
    set.add("lora.rslora", rank_stabilised, "multiply what adapters add by lora.alpha / sqrt(lora.rank) instead")
        .known_as({"use_rslora"});
    set.add("lora.dropout", dropout, "probability with which elements of the adapters' inputs are zeroed in training",
            core::within(0, 0.99))
        .known_as({"lora_dropout"});
    const auto add_patterns = [&set](const char* key, ModulePatterns& patterns, const char* help) {
        set.add_text(
            key, help, [&patterns] { return patterns.text(); },
            [&patterns](const std::string& text, const std::string& full_key, const std::string&) {
                patterns = ModulePatterns::parse(full_key, text);
            });
    };
    add_patterns("lora.rank_pattern", rank_pattern,
                 "other ranks for some modules, as PEFT's rank_pattern: PATTERN=RANK,... where a pattern is a regular "
                 "expression for the last parts of names");
    add_patterns(
        "lora.alpha_pattern", alpha_pattern,
        "other alphas for some modules, as PEFT's alpha_pattern: PATTERN=ALPHA,... where a pattern is a regular "
        "expression for the last parts of names");
}

double LoraSettings::scale(index_t lora_rank, double module_alpha) const {
    return ops::lora_scale(lora_rank, module_alpha, rank_stabilised);
}

AdapterSpec LoraSettings::spec_of(LoraTarget target, const std::string& module) const {
    if (modules) {
        const auto found = modules->find(module);
        return found == modules->end() ? AdapterSpec() : found->second;
    }
    if (rank == 0 || targets.count(target) == 0) {
        return {};
    }
    const double wanted = rank_pattern.value_of(module, static_cast<double>(rank));
    const auto module_rank = static_cast<index_t>(std::min(wanted, static_cast<double>(largest_rank)));
    core::require(
        module_rank > 0 && static_cast<double>(module_rank) == wanted, core::ExitCode::usage,
        "module {} would have rank {} (a rank is an integer from 1 to {}); correct lora.rank or lora.rank_pattern",
        module, wanted, largest_rank);
    return {module_rank, scale(module_rank, alpha_pattern.value_of(module, alpha))};
}

}  // namespace moesaic::model
