// moesaic bench layer
#include "app/benchmarks.hpp"
#include "bench/layer_benchmark.hpp"
#include "bench/routing.hpp"
#include "host/caches.hpp"
#include "model/weights/synthetic.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moesaic::app {
namespace {

using core::at_least;

class LayerOptions final : public BenchmarkOptions {
public:
    void declare(core::OptionSet& set) override {
        set.add("shape", shape_,
                fmt::format("sizes of a model's expert layer: {}", fmt::join(model::synthetic_names(), ", ")));
        set.add("hidden", sizes_.hidden, "hidden size; 0: of the shape", at_least(0));
        set.add("intermediate", sizes_.intermediate, "intermediate size of an expert; 0: of the shape", at_least(0));
        set.add("experts", sizes_.experts, "experts; 0: of the shape", at_least(0));
        set.add("experts-per-token", sizes_.experts_per_token, "experts per token; 0: of the shape", at_least(0));
        set.add("tokens", tokens_, "tokens per pass, separated by commas");
        set.add_enum("routing", routing_,
                     "uniform: all experts equally often; skewed: popularity 1/rank; hot: one expert gets all tokens");
        declare_activations(set, activations_);
        constexpr index_t most_layers = 1000;
        set.add_auto("layers", layers_, most_layers,
                     "layers that take turns; auto: enough that weights come from memory, not from caches");
    }
    void declare_sections(core::OptionSet& set) override {
        set.add("lora.rank", lora_rank_, "rank of the adapters; 0: frozen experts alone", at_least(0));
    }
    void check(index_t) const override { static_cast<void>(settings()); }
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                            bench::Console& console) const override {
        bench::LayerBenchmarkSettings wanted = settings();
        wanted.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement, runtime.placement.node_ranks));
        wanted.cache_bytes = host::last_level_cache_bytes(runtime.placement.processing_units);
        return std::make_unique<bench::LayerBenchmark>(console, runtime.kernels, wanted);
    }

private:
    [[nodiscard]] bench::LayerBenchmarkSettings settings() const {
        return {.shape = bench::layer_shape(shape_).with(sizes_),
                .tokens = bench::parse_sizes("tokens", tokens_),
                .routing = routing_,
                .lora_rank = lora_rank_,
                .activations = activations_,
                .layers = layers_};
    }

    std::string shape_ = "qwen3-30b-a3b";
    bench::LayerShape sizes_;
    std::string tokens_ = "2048";
    bench::Routing routing_ = bench::Routing::uniform;
    ops::Activations activations_ = ops::Activations::retain;
    std::int64_t layers_ = 0;
    std::int64_t lora_rank_ = 16;
};

}  // namespace

std::unique_ptr<BenchmarkOptions> make_layer_options() {
    return std::make_unique<LayerOptions>();
}

}  // namespace moesaic::app
