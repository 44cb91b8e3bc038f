#include "model/adapters/lora_settings.hpp"

#include "core/error.hpp"
#include "ops/lora.hpp"

#include <algorithm>

namespace moesaic::model {
namespace {

constexpr double largest_rank = 65536;

}  // namespace

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
    const auto module_rank = static_cast<index_t>(std::min(wanted, largest_rank));
    core::require(module_rank > 0 && static_cast<double>(module_rank) == wanted, core::ExitCode::usage,
                  "module {} would have rank {} (a rank is an integer from 1 to {}); correct lora.rank_pattern", module,
                  wanted, largest_rank);
    return {module_rank, scale(module_rank, alpha_pattern.value_of(module, alpha))};
}

}  // namespace moesaic::model
