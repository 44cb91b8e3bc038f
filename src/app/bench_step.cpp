// moesaic bench step
#include "app/bench_options.hpp"
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "bench/machine_report.hpp"
#include "bench/peak_memory.hpp"
#include "bench/step_benchmark.hpp"
#include "bench/step_check.hpp"
#include "core/error.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::app {
namespace {

using core::ExitCode;

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

std::string describe_step(const Runtime& runtime, const train::ModelOptions& options,
                          const model::Architecture& architecture, const model::DecoderSettings& settings,
                          const train::MemoryPlan& plan) {
    std::string text =
        fmt::format("training step of {}: layers {}, H {}, I {}, E {}, K {}, V {}, LoRA rank {}, BF16, kernel {}\n",
                    options.name(), architecture.layers, architecture.hidden, architecture.expert_intermediate,
                    architecture.experts, architecture.experts_per_token, architecture.vocabulary, settings.lora.rank,
                    runtime.kernels.gemm_name<core::bf16>());
    text += fmt::format("ranks {} = {}; memory of a rank: {:.2f} GiB", runtime.world.size(),
                        describe(runtime.grid.shape()), plan.total() / gib);
    for (const train::MemoryPlan::Item& item : plan.items) {
        text += fmt::format(", {} {:.2f}", item.purpose, item.bytes / gib);
    }
    return text + "\n";
}

/// Collective. The plan, and what the process that needed most really used.
void report_memory(bench::Report& report, const train::MemoryPlan& plan) {
    const double peak = report.world().max(static_cast<double>(bench::peak_memory_bytes()) / gib);
    const double planned = plan.total() / gib;
    report.add("memory_plan", "GiB", planned);
    report.add("memory_peak", "GiB", peak);
    report.say(fmt::format("memory of a rank: {:.2f} GiB at the peak, {:.2f} GiB planned\n\n", peak, planned));
}

}  // namespace

ExitCode run_bench_step(const mpi::Communicator& world, Arguments arguments) {
    bench::StepBenchmarkSettings settings = {.batches = {.batch_size = 4}, .length = 512, .repeat = 0};
    train::ModelOptions model;
    train::ParallelOptions parallel;
    std::string activations = "retain";
    std::int64_t lora_rank = 16;
    BenchOptions common = {.threads = "auto", .repeat = 7, .output = {}, .compute = {}};
    core::OptionSet options;
    options.add("batch", settings.batches.batch_size, "sequences per step, all ranks together", core::at_least(1));
    options.add("length", settings.length, "tokens per sequence", core::at_least(2));
    options.add("micro-batch", settings.batches.micro_batch, "sequences per rank and pass; 0: all of a step at once",
                core::at_least(0));
    declare_activations(options, activations);
    common.declare(options);
    model.declare(options);
    options.add("lora.rank", lora_rank, "rank of the adapters", core::at_least(1));
    parallel.declare_grid(options);
    parallel.declare_chunks(options);
    common.declare_compute(options);
    if (!parse_options_only(world, "bench step", options, arguments)) {
        return ExitCode::success;
    }
    settings.repeat = common.repeat;
    world.agree([&] { common.check_output(); });
    const Runtime runtime = common.make_runtime(world, parallel);
    const model::Architecture architecture = read_architecture(runtime, model);
    model::DecoderSettings decoder_settings;
    decoder_settings.lora.rank = lora_rank;
    decoder_settings.lora.alpha = static_cast<double>(lora_rank);  // scale 1; speed does not depend on it
    decoder_settings.activations = activations_of(activations);
    decoder_settings.chunks = runtime.chunks;
    decoder_settings.max_tokens = settings.batches.per_pass(world.size()) * settings.length;
    const train::MemoryPlan plan =
        plan_memory(runtime, architecture, decoder_settings, sizeof(core::bf16), Purpose::training);
    bench::Report report(world);
    report.say(describe_step(runtime, model, architecture, decoder_settings, plan));
    world.agree([&] {
        require_memory(runtime.placement, runtime.placement.node_ranks, model.name(),
                       std::max(plan.total(), bench::memory_of_step_check(architecture, decoder_settings,
                                                                          runtime.grid.expert().size())));
    });
    const bench::MachineLimits machine = bench::report_machine(
        report, runtime.kernels, static_cast<index_t>(memory_of_rank(runtime.placement, runtime.placement.node_ranks)));
    bench::verify_step(report, architecture, decoder_settings, runtime.kernels, runtime.grid);
    bench::reset_peak_memory();
    const auto decoder = load_model<core::bf16>(runtime, architecture, model, decoder_settings, Purpose::training);
    bench::run_step_benchmark(report, *decoder, runtime.kernels, runtime.grid, machine, settings);
    report_memory(report, plan);
    common.finish(runtime, report, "step");
    return ExitCode::success;
}

}  // namespace moesaic::app
