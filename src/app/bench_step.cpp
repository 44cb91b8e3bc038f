// moesaic bench step, moesaic bench reference
#include "app/benchmarks.hpp"
#include "app/command.hpp"
#include "bench/step_benchmark.hpp"
#include "bench/step_check.hpp"
#include "host/peak_memory.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::app {
namespace {

using core::at_least;

std::string describe_step(const Runtime& runtime, const ModelSettings& model, const model::Architecture& architecture,
                          const model::DecoderSettings& settings, const train::MemoryPlan& plan) {
    constexpr double gib = 1024.0 * 1024.0 * 1024.0;
    std::string text =
        fmt::format("training step of {}: layers {}, H {}, I {}, E {}, K {}, V {}, LoRA rank {}, BF16, kernel {}\n",
                    model.name(), architecture.layers, architecture.hidden, architecture.expert_intermediate,
                    architecture.experts, architecture.experts_per_token, architecture.vocabulary, settings.lora.rank,
                    runtime.kernels.gemm_name<core::bf16>());
    text += fmt::format("ranks {} = {}; memory of a rank: {:.2f} GiB", runtime.world.size(),
                        describe(runtime.grid.shape()), plan.total() / gib);
    for (const train::MemoryPlan::Item& item : plan.items) {
        text += fmt::format(", {} {:.2f}", item.purpose, item.bytes / gib);
    }
    return text + "\n";
}

/// What is trained in one step.
struct StepWorkload {
    ModelSettings model = {};
    model::DecoderSettings decoder = {.lora = {.rank = 16}};
    bench::StepBenchmarkSettings step = {};
};

std::unique_ptr<bench::Benchmark> prepare_step(const Runtime& runtime, bench::Console& console, StepWorkload workload) {
    const model::Architecture architecture = read_architecture(runtime, workload.model);
    model::DecoderSettings settings = workload.decoder;
    settings.lora.alpha = static_cast<double>(settings.lora.rank);  // scale 1; speed does not depend on it
    settings.max_tokens = workload.step.batches.per_pass(runtime.world.size()) * workload.step.length;
    const train::MemoryPlan plan = plan_memory(runtime, architecture, settings, sizeof(core::bf16), Purpose::training);
    workload.step.planned_bytes = plan.total();
    console.say(describe_step(runtime, workload.model, architecture, settings, plan));
    runtime.world.agree([&] {
        require_memory(
            runtime.placement, runtime.placement.node_ranks, workload.model.name(),
            std::max(plan.total(), bench::memory_of_step_check(architecture, settings, runtime.grid.expert().size())));
    });
    bench::verify_step(console, architecture, settings, runtime.kernels, runtime.grid);
    host::reset_peak_memory();
    workload.step.resident_before = host::peak_memory_bytes();
    return std::make_unique<bench::StepBenchmark>(
        load_model<core::bf16>(runtime, architecture, workload.model, settings, Purpose::training), runtime.kernels,
        runtime.grid, workload.step);
}

class StepOptions final : public BenchmarkOptions {
public:
    void declare(core::OptionSet& set) override {
        train::BatchSettings& batches = workload_.step.batches;
        set.add("batch", batches.batch_size, "sequences per step, all ranks together", at_least(1));
        set.add("length", workload_.step.length, "tokens per sequence", at_least(2));
        set.add("micro-batch", batches.micro_batch, "sequences per rank and pass; 0: all of a step at once",
                at_least(0));
        declare_activations(set, workload_.decoder.activations);
    }
    void declare_sections(core::OptionSet& set) override {
        workload_.model.declare(set);
        set.add("lora.rank", workload_.decoder.lora.rank, "rank of the adapters", at_least(1));
        grid_.declare(set);
        workload_.decoder.declare_chunks(set);
    }
    [[nodiscard]] mpi::GridShape grid() const override { return grid_; }
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                            bench::Console& console) const override {
        return prepare_step(runtime, console, workload_);
    }

private:
    StepWorkload workload_ = {.step = {.batches = {.batch_size = 4}, .length = 512}};
    mpi::GridShape grid_;
};

/// docs/benchmarking.md has the rules: only how ranks share the work may be chosen.
class ReferenceOptions final : public BenchmarkOptions {
public:
    void declare_sections(core::OptionSet& set) override {
        grid_.declare(set);
        workload_.decoder.declare_chunks(set);
    }
    [[nodiscard]] mpi::GridShape grid() const override { return grid_; }
    [[nodiscard]] std::unique_ptr<bench::Benchmark> prepare(const Runtime& runtime,
                                                            bench::Console& console) const override {
        constexpr index_t tokens_per_thread = 128;
        const index_t threads = runtime.world.size() * runtime.placement.threads;
        StepWorkload workload = workload_;
        workload.step = {.batches = {.batch_size = threads}, .length = tokens_per_thread};
        return prepare_step(runtime, console, workload);
    }

private:
    StepWorkload workload_ = {.model = {.path = {}, .synthetic = "moesaic-reference"}};
    mpi::GridShape grid_;
};

}  // namespace

std::unique_ptr<BenchmarkOptions> make_step_options() {
    return std::make_unique<StepOptions>();
}

std::unique_ptr<BenchmarkOptions> make_reference_options() {
    return std::make_unique<ReferenceOptions>();
}

}  // namespace moesaic::app
