// moesaic bench kernels, moesaic bench layer
#include "app/bench_options.hpp"
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "bench/kernel_benchmark.hpp"
#include "bench/layer_benchmark.hpp"
#include "bench/routing.hpp"
#include "core/error.hpp"
#include "model/synthetic.hpp"
#include "train/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moesaic::app {
namespace {

using core::at_least;
using core::ExitCode;

std::string known_shapes() {
    return fmt::format("{}", fmt::join(model::synthetic_names(), ", "));
}

}  // namespace

ExitCode run_bench_kernels(const mpi::Communicator& world, Arguments arguments) {
    std::string rows = "1,4,16,64,128,256,1024";
    std::string shape;
    std::int64_t n = 0;
    std::int64_t k = 0;
    bool cold = false;
    BenchOptions common = {.threads = "1", .repeat = 15, .output = {}, .compute = {}};
    core::OptionSet options;
    options.add("m", rows, "rows M of the activations, separated by commas");
    options.add("shape", shape, "weights of the gate projection of a model: " + known_shapes());
    options.add("n", n, "rows N of the weights; 0: of the shape, or 2048", at_least(0));
    options.add("k", k, "columns K of the weights; 0: of the shape, or 2048", at_least(0));
    options.add("cold", cold, "take copies of the weights in turn, so that they come from memory and not from caches");
    common.declare(options);
    common.declare_compute(options);
    if (!parse_options_only(world, "bench kernels", options, arguments)) {
        return ExitCode::success;
    }
    bench::KernelSettings settings;
    settings.cold = cold;
    settings.repeat = common.repeat;
    world.agree([&] {
        common.check_output();
        settings.rows = bench::parse_sizes("m", rows);
        const bench::LayerShape named =
            shape.empty() ? bench::LayerShape{"", 2048, 2048, 1, 1} : bench::layer_shape(shape);
        settings.n = n > 0 ? n : named.intermediate;
        settings.k = k > 0 ? k : named.hidden;
    });
    const Runtime runtime = common.make_runtime(world);
    settings.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement, runtime.placement.node_ranks));
    bench::Report report(world);
    bench::run_kernel_benchmark(report, runtime.kernels, settings);
    common.finish(runtime, report, "kernels");
    return ExitCode::success;
}

ExitCode run_bench_layer(const mpi::Communicator& world, Arguments arguments) {
    std::string shape = "qwen3-30b-a3b";
    bench::LayerShape sizes;
    std::string tokens = "2048";
    std::string routing = "uniform";
    std::string activations = "retain";
    std::string layers = "auto";
    std::int64_t lora_rank = 16;
    BenchOptions common = {.threads = "auto", .repeat = 7, .output = {}, .compute = {}};
    core::OptionSet options;
    options.add("shape", shape, "sizes of a model's expert layer: " + known_shapes());
    options.add("hidden", sizes.hidden, "hidden size; 0: of the shape", at_least(0));
    options.add("intermediate", sizes.intermediate, "intermediate size of an expert; 0: of the shape", at_least(0));
    options.add("experts", sizes.experts, "experts; 0: of the shape", at_least(0));
    options.add("experts-per-token", sizes.experts_per_token, "experts per token; 0: of the shape", at_least(0));
    options.add("tokens", tokens, "tokens per pass, separated by commas");
    options.add("routing", routing,
                "uniform: all experts equally often; skewed: popularity 1/rank; hot: one expert gets all tokens",
                core::one_of(bench::routing_names()));
    declare_activations(options, activations);
    options.add("layers", layers, "layers that take turns; auto: enough that weights come from memory, not from caches",
                core::auto_or_within(1, 1000));
    common.declare(options);
    options.add("lora.rank", lora_rank, "rank of the adapters; 0: frozen experts alone", at_least(0));
    common.declare_compute(options);
    if (!parse_options_only(world, "bench layer", options, arguments)) {
        return ExitCode::success;
    }
    bench::LayerBenchmarkSettings settings;
    settings.routing = routing;
    settings.lora_rank = lora_rank;
    settings.activations = activations_of(activations);
    settings.layers = core::parse_auto(layers);
    settings.repeat = common.repeat;
    world.agree([&] {
        common.check_output();
        settings.tokens = bench::parse_sizes("tokens", tokens);
        settings.shape = bench::layer_shape(shape).with(sizes);
    });
    const Runtime runtime = common.make_runtime(world);
    settings.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement, runtime.placement.node_ranks));
    bench::Report report(world);
    bench::run_layer_benchmark(report, runtime.kernels, settings);
    common.finish(runtime, report, "layer");
    return ExitCode::success;
}

}  // namespace moesaic::app
