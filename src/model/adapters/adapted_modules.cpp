#include "model/adapters/adapted_modules.hpp"

#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "model/layer_plan.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::model {
namespace {

using core::ExitCode;

/// Calls use(projection) for all of all layers, as a single rank has them.
template <class Use>
void for_each_projection(const std::vector<LayerPlan>& layers, const Use& use) {
    for (const LayerPlan& layer : layers) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            std::for_each(block->projections.begin(), block->projections.end(), use);
        }
    }
}

std::vector<LayerPlan> whole_layers(const Architecture& architecture, const LoraSettings& settings) {
    DecoderSettings decoder;
    decoder.lora = settings;
    return plan_layers(architecture, decoder, {});
}

std::string last_part(const std::string& module) {
    return module.substr(module.rfind('.') + 1);
}

std::string kind_of(const ProjectionPlan& projection) {
    switch (projection.target) {
        case LoraTarget::experts:
            return "experts";
        case LoraTarget::attention:
            return last_part(projection.modules.front());
        default:
            return fmt::format("{} {}", core::name_of(projection.target), last_part(projection.modules.front()));
    }
}

double product(index_t a, index_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
}

double parameters_outside_projections(const Architecture& architecture, const std::vector<LayerPlan>& layers) {
    double parameters = product(architecture.vocabulary, architecture.hidden) * (architecture.tied_head ? 1 : 2) +
                        static_cast<double>(architecture.hidden);  // and the last norm
    for (const LayerPlan& layer : layers) {
        for (const BlockPlan* block : {&layer.mixer, &layer.feed_forward}) {
            parameters += static_cast<double>(block->norm.cols);
            for (const TensorPlan& tensor : block->tensors) {
                parameters += product(tensor.rows, tensor.cols);
            }
        }
    }
    return parameters;
}

void add(const ProjectionPlan& projection, AdaptedModules& adapted) {
    adapted.model_parameters += product(projection.count(), projection.out) * static_cast<double>(projection.in) +
                                (projection.has_bias ? product(projection.count(), projection.out) : 0);
    if (projection.lora_rank == 0) {
        return;
    }
    adapted.targets.insert(projection.target);
    const std::string name = kind_of(projection);
    auto kind = std::find_if(adapted.kinds.begin(), adapted.kinds.end(),
                             [&](const AdaptedKind& known) { return known.name == name; });
    if (kind == adapted.kinds.end()) {
        kind = adapted.kinds.insert(kind, {.name = name, .target = projection.target});
    }
    for (const AdapterSpec& spec : projection.specs) {
        if (spec.lora_rank > 0) {
            ++kind->modules;
            kind->least_rank = kind->modules == 1 ? spec.lora_rank : std::min(kind->least_rank, spec.lora_rank);
            kind->largest_rank = std::max(kind->largest_rank, spec.lora_rank);
            const double parameters = product(spec.lora_rank, projection.in + projection.out);
            kind->parameters += parameters;
            adapted.parameters += parameters;
        }
    }
}

/// "12,345,678".
std::string with_commas(double count) {
    std::string digits = fmt::format("{:.0f}", count);
    for (auto place = std::ssize(digits) - 3; place > 0; place -= 3) {
        digits.insert(static_cast<std::size_t>(place), 1, ',');
    }
    return digits;
}

}  // namespace

AdaptedModules adapted_modules(const Architecture& architecture, const LoraSettings& settings) {
    const std::vector<LayerPlan> layers = whole_layers(architecture, settings);
    AdaptedModules adapted;
    adapted.model_parameters = parameters_outside_projections(architecture, layers);
    for_each_projection(layers, [&](const ProjectionPlan& projection) { add(projection, adapted); });
    std::stable_sort(adapted.kinds.begin(), adapted.kinds.end(),
                     [](const AdaptedKind& a, const AdaptedKind& b) { return a.target < b.target; });
    return adapted;
}

std::string describe(const AdaptedModules& adapted) {
    std::string text;
    for (const AdaptedKind& kind : adapted.kinds) {
        const std::string ranks = kind.least_rank == kind.largest_rank
                                      ? fmt::format("rank {}", kind.least_rank)
                                      : fmt::format("ranks {} to {}", kind.least_rank, kind.largest_rank);
        text += fmt::format("{}{} x {} ({})", text.empty() ? "" : ", ", kind.modules, kind.name, ranks);
    }
    return fmt::format("{}; {} of {} parameters ({:.2g} %)", text.empty() ? "nothing" : text,
                       with_commas(adapted.parameters), core::short_count(adapted.model_parameters),
                       100 * adapted.parameters / adapted.model_parameters);
}

void check_adapters(const Architecture& architecture, const LoraSettings& settings) {
    std::set<LoraTarget> there;
    std::vector<std::string> adapted;
    std::set<std::string> names;  // last parts of those of adapted modules
    for_each_projection(whole_layers(architecture, settings), [&](const ProjectionPlan& projection) {
        there.insert(projection.target);
        for (std::size_t m = 0; m < projection.modules.size(); ++m) {
            if (projection.specs[m].lora_rank > 0) {
                adapted.push_back(projection.modules[m]);
                names.insert(last_part(projection.modules[m]));
            }
        }
    });
    if (!settings.modules) {
        std::vector<std::string> kinds;
        for (const LoraTarget target : there) {
            kinds.emplace_back(core::name_of(target));
        }
        for (const LoraTarget target : settings.targets) {
            core::require(there.count(target) > 0, ExitCode::usage,
                          "lora.targets has {}, which stands for nothing here (a {} model as config.json describes it "
                          "has {}); remove it",
                          core::name_of(target), architecture.family, core::joined(kinds));
        }
        for (const auto& [key, patterns] : {std::pair("lora.rank_pattern", &settings.rank_pattern),
                                            std::pair("lora.alpha_pattern", &settings.alpha_pattern)}) {
            const std::vector<std::string> unmatched = patterns->unmatched(adapted);
            core::require(unmatched.empty(), ExitCode::usage,
                          "{}: the pattern {} matches no adapted module (their names end in {}); correct it, or name "
                          "its modules' kind in lora.targets",
                          key, unmatched.empty() ? "" : core::printable(unmatched.front()),
                          core::joined(std::vector<std::string>(names.begin(), names.end())));
        }
    }
    core::require(!adapted.empty(), ExitCode::usage,
                  "nothing would be trained (no module of the model is adapted); choose other lora.targets, or another "
                  "adapter in lora.init");
}

}  // namespace moesaic::model
