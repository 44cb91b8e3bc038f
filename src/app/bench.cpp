// moesaic bench kernels, moesaic bench layer, moesaic bench step
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "bench/kernel_benchmark.hpp"
#include "bench/layer_benchmark.hpp"
#include "bench/machine.hpp"
#include "bench/machine_report.hpp"
#include "bench/peak_memory.hpp"
#include "bench/routing.hpp"
#include "bench/step_benchmark.hpp"
#include "core/error.hpp"
#include "io/files.hpp"
#include "train/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

namespace moesaic::app {
namespace {

using core::at_least;
using core::ExitCode;

/// Options of every benchmark.
struct CommonOptions {
    std::string threads;
    std::int64_t repeat;
    std::string output;
    train::ComputeOptions compute;

    void declare(core::OptionSet& set) {
        set.add("threads", threads, "threads per rank; auto: one per physical core of the rank",
                core::auto_or_at_least(1));
        set.add("repeat", repeat, "measurements of each figure, after a warm-up", at_least(1));
        set.add("output", output, "write the figures and the environment to this JSON file");
    }
    /// Last, because it has a section.
    void declare_compute(core::OptionSet& set) { compute.declare_isa(set); }
};

/// Collective. Where nothing else is given every rank computes by itself: there is nothing that ranks would share.
Runtime make_runtime(const mpi::Communicator& world, const CommonOptions& common,
                     train::ParallelOptions parallel = {.tensor = "1"}) {
    parallel.threads = common.threads;
    return {world, parallel, common.compute};
}

/// Throws a usage error now rather than after the measurements.
void check_output(const std::string& file) {
    if (file.empty()) {
        return;
    }
    const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
    core::require(std::filesystem::is_directory(folder), ExitCode::usage,
                  "can't write output = {} (there is no folder {}); create it, or choose another", file,
                  folder.string());
}

/// Collective. The figures as lines, and as a file if the user wants one.
void finish(const Runtime& runtime, const bench::Report& report, std::string_view benchmark,
            const std::string& output) {
    report.print_figures();
    const bench::Environment environment = {.cpu = bench::cpu_model(),
                                            .host = runtime.placement.host,
                                            .isa = std::string(runtime.kernels.gemm_name<core::bf16>()),
                                            .threads = runtime.placement.threads,
                                            .ranks = runtime.world.size()};
    runtime.world.agree([&] {
        if (runtime.world.is_root() && !output.empty()) {
            io::write_file_atomically(output, report.to_json(benchmark, environment).dump(2) + "\n");
        }
    });
}

void declare_activations(core::OptionSet& set, std::string& activations) {
    set.add("activations", activations,
            "retain gate and up between forward and backward, or recompute them from the layer's input",
            core::one_of({"retain", "recompute"}));
}

model::Activations activations_of(const std::string& choice) {
    return choice == "retain" ? model::Activations::retain : model::Activations::recompute;
}

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

std::string describe_step(const Runtime& runtime, const train::ModelOptions& options,
                          const model::Architecture& architecture, const model::DecoderSettings& settings,
                          const train::MemoryPlan& plan) {
    std::string text =
        fmt::format("training step of {}: layers {}, H {}, I {}, E {}, K {}, V {}, LoRA rank {}, BF16, kernel {}\n",
                    options.name(), architecture.layers, architecture.hidden, architecture.expert_intermediate,
                    architecture.experts, architecture.experts_per_token, architecture.vocabulary, settings.lora.rank,
                    runtime.kernels.gemm_name<core::bf16>());
    text +=
        fmt::format("ranks {} = data {} x tensor {}; memory of a rank: {:.2f} GiB", runtime.world.size(),
                    runtime.grid.data().size(), runtime.grid.tensor().size(), static_cast<double>(plan.total()) / gib);
    for (const train::MemoryPlan::Item& item : plan.items) {
        text += fmt::format(", {} {:.2f}", item.purpose, static_cast<double>(item.bytes) / gib);
    }
    return text + "\n";
}

/// Collective. The plan, and what the process that needed most really used.
void report_memory(bench::Report& report, const train::MemoryPlan& plan) {
    const double peak = report.world().max(static_cast<double>(bench::peak_memory_bytes()) / gib);
    const double planned = static_cast<double>(plan.total()) / gib;
    report.add("memory_plan", "GiB", planned);
    report.add("memory_peak", "GiB", peak);
    report.say(fmt::format("memory of a rank: {:.2f} GiB at the peak, {:.2f} GiB planned\n\n", peak, planned));
}

std::string known_shapes() {
    return fmt::format("{}", fmt::join(bench::layer_shape_names(), ", "));
}

}  // namespace

ExitCode run_bench_kernels(const mpi::Communicator& world, Arguments arguments) {
    std::string rows = "1,4,16,64,128,256,1024";
    std::string shape;
    std::int64_t n = 0;
    std::int64_t k = 0;
    bool cold = false;
    CommonOptions common = {.threads = "1", .repeat = 15, .output = {}, .compute = {}};
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
        check_output(common.output);
        settings.rows = bench::parse_sizes("m", rows);
        const bench::LayerShape named =
            shape.empty() ? bench::LayerShape{"", 2048, 2048, 1, 1} : bench::layer_shape(shape);
        settings.n = n > 0 ? n : named.intermediate;
        settings.k = k > 0 ? k : named.hidden;
    });
    const Runtime runtime = make_runtime(world, common);
    settings.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement));
    bench::Report report(world);
    bench::run_kernel_benchmark(report, runtime.kernels, settings);
    finish(runtime, report, "kernels", common.output);
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
    CommonOptions common = {.threads = "auto", .repeat = 7, .output = {}, .compute = {}};
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
                core::auto_or_at_least(1));
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
        check_output(common.output);
        settings.tokens = bench::parse_sizes("tokens", tokens);
        settings.shape = bench::layer_shape(shape).with(sizes);
    });
    const Runtime runtime = make_runtime(world, common);
    settings.memory_bytes = static_cast<index_t>(memory_of_rank(runtime.placement));
    bench::Report report(world);
    bench::run_layer_benchmark(report, runtime.kernels, settings);
    finish(runtime, report, "layer", common.output);
    return ExitCode::success;
}

ExitCode run_bench_step(const mpi::Communicator& world, Arguments arguments) {
    bench::StepBenchmarkSettings settings = {.batch = 4, .length = 512, .micro_batch = 0, .repeat = 0};
    train::ModelOptions model;
    train::ParallelOptions parallel;
    std::string activations = "retain";
    std::int64_t lora_rank = 16;
    CommonOptions common = {.threads = "auto", .repeat = 7, .output = {}, .compute = {}};
    core::OptionSet options;
    options.add("batch", settings.batch, "sequences per step, all ranks together", at_least(1));
    options.add("length", settings.length, "tokens per sequence", at_least(2));
    options.add("micro-batch", settings.micro_batch, "sequences per rank and pass; 0: all of a step at once",
                at_least(0));
    declare_activations(options, activations);
    common.declare(options);
    model.declare(options);
    options.add("lora.rank", lora_rank, "rank of the adapters", at_least(1));
    parallel.declare_grid(options);
    common.declare_compute(options);
    if (!parse_options_only(world, "bench step", options, arguments)) {
        return ExitCode::success;
    }
    settings.repeat = common.repeat;
    world.agree([&] { check_output(common.output); });
    const Runtime runtime = make_runtime(world, common, parallel);
    const model::Architecture architecture = read_architecture(runtime, model);
    const index_t passes_of = settings.micro_batch > 0 ? settings.micro_batch * world.size() : settings.batch;
    const model::DecoderSettings decoder_settings = {
        .lora = {.rank = lora_rank, .alpha = static_cast<double>(lora_rank)},
        .activations = activations_of(activations),
        .max_tokens = std::min(settings.batch, passes_of) * settings.length};
    const train::MemoryPlan plan =
        plan_memory(runtime, architecture, decoder_settings, sizeof(core::bf16), Purpose::training);
    bench::Report report(world);
    report.say(describe_step(runtime, model, architecture, decoder_settings, plan));
    require_memory(runtime, model, plan);
    const bench::MachineLimits machine =
        bench::report_machine(report, runtime.kernels, static_cast<index_t>(memory_of_rank(runtime.placement)));
    bench::verify_step(report, architecture, decoder_settings, runtime.kernels, runtime.grid);
    bench::reset_peak_memory();
    const auto decoder = load_model<core::bf16>(runtime, architecture, model, decoder_settings, Purpose::training);
    bench::run_step_benchmark(report, *decoder, runtime.kernels, runtime.grid, machine, settings);
    report_memory(report, plan);
    finish(runtime, report, "step", common.output);
    return ExitCode::success;
}

}  // namespace moesaic::app
