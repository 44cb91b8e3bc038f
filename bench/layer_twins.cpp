#include "bench/layer_twins.hpp"

#include "bench/layer_check.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "host/caches.hpp"

#include <fmt/format.h>

namespace moesaic::bench {

using core::bf16;

LayerTwins::LayerTwins(const train::Runtime& runtime, Console& console, const LayerSettings& settings, index_t count)
    : settings_(settings) {
    plan(runtime, console, count);
    build(runtime);
    verify(console);
}

index_t LayerTwins::memory(const kernels::KernelSet& kernels) const {
    LayerSettings frozen = settings_;
    frozen.lora_rank = 0;
    return memory_of_layers(settings_, count_, kernels) + (has_twins() ? memory_of_layers(frozen, count_, kernels) : 0);
}

/// Takes as many layers as have three times the weights that the last-level cache holds, so that they come from memory;
/// as far as they fit, and not without bound for tiny layers.
void LayerTwins::choose_count(const kernels::KernelSet& kernels, index_t memory_bytes, index_t cache_bytes) {
    constexpr index_t most = 64;
    for (count_ = 1; count_ < most && all_weight_bytes() < 3 * cache_bytes; ++count_) {
    }
    while (count_ > 1 && memory(kernels) > memory_bytes) {
        --count_;
    }
}

void LayerTwins::plan(const train::Runtime& runtime, const Console& console, index_t wanted_count) {
    const index_t memory_bytes = runtime.memory_bytes();
    const index_t cache_bytes = host::last_level_cache_bytes(runtime.placement.processing_units);
    count_ = wanted_count;
    if (wanted_count == 0) {
        choose_count(runtime.kernels, memory_bytes, cache_bytes);
    }
    count_ = runtime.world.min(count_);
    const double needed = static_cast<double>(memory(runtime.kernels)) / core::gibibyte;
    const double available = static_cast<double>(memory_bytes) / core::gibibyte;
    console.say(fmt::format("layers {}{}: {:.2f} GiB per rank, {:.2f} GiB are available; weights {} {:.2f} GiB{}\n",
                            count_, has_twins() ? ", and as many without LoRA" : "", needed, available,
                            has_twins() ? "2 x" : "", static_cast<double>(all_weight_bytes()) / core::gibibyte,
                            all_weight_bytes() < cache_bytes ? " (they fit into the last-level cache)" : ""));
    runtime.world.agree([&] {
        core::require(
            memory(runtime.kernels) <= memory_bytes, core::ExitCode::out_of_resources,
            "the layers need {:.1f} GiB ({:.1f} GiB are available to a rank); use fewer --tokens, --layers 1, "
            "--lora.rank 0 or fewer --experts",
            needed, available);
    });
}

void LayerTwins::build(const train::Runtime& runtime) {
    runtime.world.agree([&] {
        const auto workspace = std::make_shared<ops::ExpertWorkspace<bf16>>();
        for (index_t i = 0; i < count_; ++i) {
            LayerSettings own = settings_;
            own.seed += static_cast<std::uint64_t>(i);
            layers_.emplace_back(own, workspace, runtime.kernels);
            if (has_twins()) {
                own.lora_rank = 0;
                frozen_.emplace_back(own, workspace, runtime.kernels);
            }
        }
    });
}

/// The first layer against FP32.
void LayerTwins::verify(Console& console) {
    CheckedLayer errors;
    console.world().agree([&] { errors = measure_errors(layers_.front(), settings_); });
    const double bound = error_bound_of(settings_.weights);
    const auto say = [&](const char* title, const LayerErrors& some, const auto& use) {
        console.say(title);
        for (const measure::Check& check : checks_of(some, bound)) {
            if (has_twins() || check.name != "error_grad_lora") {
                use(check);
                console.say(fmt::format(" {} {:.2e}", check.name.substr(6), check.error));
            }
        }
    };
    say("against FP32:", errors.computed,
        [&](const measure::Check& check) { console.add_check(check.name, check.error, check.bound); });
    console.say(fmt::format(" (at most {})\n", bound));
    if (settings_.weights != ops::WeightFormat::bf16) {
        say("against weights before they were rounded:", errors.quantised,
            [&](const measure::Check& check) { console.add("rounded_" + check.name, "-", check.error); });
        console.say("\n");
    }
}

}  // namespace moesaic::bench
