// Which adapters a run has: those of its options, or of the adapter that it starts from.
#include "core/error.hpp"
#include "core/options.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "train/adapter_store.hpp"

#include <fmt/format.h>

namespace moesaic::train {
namespace {

/// The settings of the adapter in `folder`, which options that were given must not contradict.
model::LoraSettings settings_of_adapter(const std::filesystem::path& folder, const model::Architecture& architecture,
                                        const model::LoraSettings& wanted, const core::OptionSet& given) {
    model::LoraSettings settings = read_adapter_settings(folder, architecture);
    settings.targets = model::adapted_modules(architecture, settings).targets;
    settings.dropout = wanted.dropout;
    const auto check = [&](const char* key, bool agrees, const std::string& value) {
        core::require(
            !given.was_set(key) || agrees, core::ExitCode::usage,
            "{} contradicts the adapter {} (which decides what is adapted and how{}); remove it, or lora.init", key,
            folder.string(), value.empty() ? "" : fmt::format("; it has {}", value));
    };
    check("lora.rank", wanted.rank == settings.rank, fmt::format("{}", settings.rank));
    check("lora.alpha", wanted.alpha == settings.alpha, fmt::format("{}", settings.alpha));
    check("lora.rslora", wanted.rank_stabilised == settings.rank_stabilised,
          fmt::format("{}", settings.rank_stabilised));
    check("lora.targets", wanted.targets == settings.targets, "");
    check("lora.rank_pattern", wanted.rank_pattern.text() == settings.rank_pattern.text(), "");
    check("lora.alpha_pattern", wanted.alpha_pattern.text() == settings.alpha_pattern.text(), "");
    return settings;
}

}  // namespace

model::LoraSettings settings_to_start_from(const std::filesystem::path& folder, const model::Architecture& architecture,
                                           const model::LoraSettings& wanted, const core::OptionSet& given) {
    model::LoraSettings settings = folder.empty() ? wanted : settings_of_adapter(folder, architecture, wanted, given);
    model::check_adapters(architecture, settings);
    return settings;
}

}  // namespace moesaic::train
