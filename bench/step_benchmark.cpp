// moesaic bench step, moesaic bench reference: whole training steps on random tokens.
#include "bench/benchmark.hpp"
#include "bench/step_check.hpp"
#include "bench/step_plans.hpp"
#include "bench/step_run.hpp"
#include "bench/step_samples.hpp"
#include "core/counted.hpp"
#include "core/trace.hpp"
#include "core/units.hpp"
#include "host/process_memory.hpp"
#include "measure/trace_drain.hpp"
#include "ops/activations_option.hpp"
#include "ops/arithmetic_option.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moesaic::bench {
namespace {

namespace figures = measure::figures;

/// Which grids of a model are measured.
enum class MeasuredGrids : std::uint8_t { automatic, all };
constexpr auto names_of(MeasuredGrids) {
    return std::to_array<std::string_view>({"auto", "all"});
}

/// Steps of all ranks, which train one model together on random tokens, a few steps of them again and again.
class StepBenchmark final : public Benchmark {
public:
    /// Collective. Loads the model, with random LoRA factors.
    StepBenchmark(const train::Runtime& runtime, const model::Architecture& architecture, const StepWorkload& workload,
                  double planned_bytes);

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override { return {samples_.seconds.slowest}; }
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    static constexpr index_t steps_of_data = 8;

    void report_parts(Console& console, const measure::MachineLimits& limits) const;
    void report_memory(Console& console) const;

    const mpi::ProcessGrid& grid_;
    index_t tokens_;          ///< of a step
    index_t pass_sequences_;  ///< of all ranks
    ops::Activations activations_;
    double planned_bytes_;         ///< of memory of this rank, to print it beside what is used
    host::MemoryOfPhases memory_;  ///< of the model and of steps
    train::Dataset data_;
    train::TrainSession<core::bf16> session_;
    StepSamples samples_ = {};
    index_t steps_ = 0;  ///< warm-ups too
};

StepBenchmark::StepBenchmark(const train::Runtime& runtime, const model::Architecture& architecture,
                             const StepWorkload& workload, double planned_bytes)
    : grid_(runtime.grid),
      tokens_(workload.tokens()),
      pass_sequences_(workload.batches.per_pass(runtime.world.size())),
      activations_(workload.decoder.activations),
      planned_bytes_(planned_bytes),
      data_(random_tokens(workload.batches.batch_size * steps_of_data, workload.length, architecture.vocabulary, 0)),
      session_(load_random_factors(runtime, architecture, workload), data_, settings_of_steps(workload.batches),
               runtime.kernels, runtime.grid) {
    memory_.end();
}

void StepBenchmark::repeat(bool record) {
    memory_.begin();
    const mpi::Communicator& world = grid_.world();
    measure::EventCollector collector;
    const Sample seconds = seconds_of(world, [&] { session_.step(); });
    const measure::StepTrace trace = measure::trace_of_step(collector.stop());
    memory_.end();
    if (session_.decoder().architecture().moe_layers() > 0) {
        static_cast<void>(trace.rank.seconds_of(core::scopes::exchange_dispatch));  // or the exchange looks like none
    }
    ++steps_;
    std::vector<measure::RankSteps> shares = measure::share_out(world, trace);
    if (record) {
        samples_.seconds.push_back(seconds);
        samples_.mine.push_back(trace.rank);
        samples_.shares.push_back(std::move(shares));
    }
}

/// Parts of the step on rank 0. The innermost ones are indented.
void StepBenchmark::report_parts(Console& console, const measure::MachineLimits& limits) const {
    struct Part {
        const char* label;
        const char* figure;  ///< or null
        core::trace::ScopeName scope;
        double operations;     ///< or 0
        bool is_there = true;  ///< false: the step has no such part, and the table no line
    };
    const model::Architecture& architecture = session_.decoder().architecture();
    const train::StepWork work = train::even_work(architecture, grid_.shape(), static_cast<double>(tokens_));
    const bool has_experts = architecture.moe_layers() > 0;
    // Backward ends at the experts of the lowest layer with some, as only experts are adapted.
    const auto lowest = std::find(architecture.is_moe.begin(), architecture.is_moe.end(), true);
    const bool passes_attention = architecture.is_moe.end() - lowest > 1;
    const bool recomputes_layers = activations_ == ops::Activations::layer;
    const std::array parts = {
        Part{"forward", figures::step_forward, core::scopes::decoder_forward, 0},
        Part{"  attention scores", nullptr, core::scopes::attention_forward, 0},
        Part{"  experts", "step_experts_forward", core::scopes::experts_forward, work.experts.operations, has_experts},
        Part{"head and loss", figures::step_loss, core::scopes::loss, 2 * work.head.operations},
        Part{"backward", figures::step_backward, core::scopes::decoder_backward, 0},
        Part{"  layers again", "step_recompute", core::scopes::recompute, 0, recomputes_layers},
        Part{"  attention scores", nullptr, core::scopes::attention_backward, 0, passes_attention},
        Part{"  experts", "step_experts_backward", core::scopes::experts_backward, work.experts.operations,
             has_experts},
        Part{"reduce gradients", figures::step_reduce, core::scopes::gradients_reduce, 0},
        Part{"AdamW", figures::step_optimizer, core::scopes::optimizer_step, 0}};
    console.say(fmt::format("{:<20} {:>10} {:>8} {:>9} {:>10} {:>8}\n", "part, on rank 0", "ms", "", "of step",
                            "GFLOP/s", "of peak"));
    for (const Part& part : parts) {
        if (!part.is_there) {
            continue;
        }
        const auto seconds_of = [&](std::size_t i) { return samples_.mine[i].seconds_of(part.scope); };
        const std::vector<double> seconds = samples_.of_each(seconds_of);
        const measure::Summary time = measure::summarize(seconds);
        const measure::Summary share = measure::summarize(
            samples_.of_each([&](std::size_t i) { return 100 * seconds_of(i) / samples_.mine[i].total; }));
        const double flops = part.operations / time.median;
        console.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>8.1f}%{}\n", part.label, time.median * 1e3,
                                time.spread_percent(), share.median,
                                part.operations > 0 ? fmt::format(" {:>10.1f} {:>8}", flops * 1e-9,
                                                                  percent_of_limit(100 * flops / limits.peak_flops))
                                                    : ""));
        if (part.figure != nullptr) {
            console.add(part.figure, "ms", measure::Better::neither, measure::scaled(1e3, seconds));
        }
    }
}

void StepBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    const model::Architecture& architecture = session_.decoder().architecture();
    report_parts(console, limits);
    samples_.report_ranks(console);
    const std::int64_t sent = console.world().sum(session_.decoder().exchange_volume().total());
    if (const index_t token_layers = steps_ * tokens_ * architecture.moe_layers(); token_layers > 0) {
        console.add("exchange_bytes_per_token", "B", static_cast<double>(sent) / static_cast<double>(token_layers));
    }
    const train::StepWork work = train::even_work(architecture, grid_.shape(), static_cast<double>(tokens_));
    const double floor = work.floor_seconds(limits);
    const measure::Summary seconds = measure::summarize(samples_.seconds.slowest);
    const double reached = 100 * floor / seconds.median;
    const Samples speed = samples_.seconds.rates(static_cast<double>(tokens_));
    console.add(figures::step_seconds, "s", measure::Better::neither, samples_.seconds, reached, work.sum());
    console.add(figures::step_tokens_per_second, "tokens/s", measure::Better::higher, speed, reached);
    console.add("step_pass_sequences", "sequences", static_cast<double>(pass_sequences_));
    console.add("step_floor", "percent", measure::Better::neither,
                measure::rates(100 * floor, samples_.seconds.slowest));
    console.say(fmt::format("\n{} per step: {:.4f} s +- {:.1f}%, {:.1f} tokens/s, {} of the floor\n",
                            core::counted(tokens_, "token"), seconds.median, seconds.spread_percent(),
                            measure::summarize(speed.slowest).median, percent_of_limit(reached)));
    report_memory(console);
}

void StepBenchmark::report_memory(Console& console) const {
    const double peak = console.world().max(memory_.peak_bytes() / core::gibibyte);
    const double planned = planned_bytes_ / core::gibibyte;
    console.add("memory_plan", "GiB", planned);
    console.add("memory_peak", "GiB", peak);
    console.say(fmt::format("memory of a rank: {:.2f} GiB at the peak, {:.2f} GiB planned\n\n", peak, planned));
}

std::string describe_step(const train::Runtime& runtime, const StepWorkload& workload,
                          const model::Architecture& architecture, const train::MemoryPlan& plan) {
    std::string text =
        fmt::format("training step of {}: layers {}, H {}, I {}, E {}, K {}, V {}, LoRA rank {}, BF16, kernel {}\n",
                    workload.model.name(), architecture.layers, architecture.hidden, architecture.expert_intermediate,
                    architecture.experts, architecture.experts_per_token, architecture.vocabulary,
                    workload.decoder.lora.rank, runtime.kernels.gemm_name<core::bf16>());
    text += fmt::format("ranks {} = {}; passes of {} sequences; memory of a rank: {:.2f} GiB", runtime.world.size(),
                        describe(runtime.grid.shape()), workload.batches.per_pass(runtime.world.size()),
                        plan.total() / core::gibibyte);
    for (const train::MemoryPlan::Item& item : plan.items) {
        text += fmt::format(", {} {:.2f}", item.name(), item.bytes / core::gibibyte);
    }
    return text + "\n";
}

/// Collective. The grid that the cost model chooses, or all that fit, the best one first.
std::vector<CaseGrid> grids_of_step(const train::Ranks& ranks, const mpi::GridSettings& wanted,
                                    const StepWorkload& workload, MeasuredGrids measured) {
    const StepPlans plans(ranks, wanted, workload);
    std::vector<mpi::GridShape> shapes;
    ranks.world.agree([&] { shapes = train::grids_for(plans.question(), ranks.world.size()); });
    if (shapes.size() == 1) {
        return {{.shape = shapes.front()}};
    }
    std::vector<CaseGrid> grids;
    for (const train::GridOption& option : train::grid_options(ranks, plans.question(), kernels::Precision::bf16)) {
        const bool is_choice = grids.empty();
        if (is_choice || (measured == MeasuredGrids::all && option.fits)) {
            grids.push_back({.shape = option.grid(), .predicted = option.cost, .is_choice = is_choice});
        }
    }
    return grids;
}

std::unique_ptr<Benchmark> prepare_step(const train::Runtime& runtime, Console& console, const StepWorkload& workload) {
    const mpi::GridShape& grid = runtime.grid.shape();
    const StepPlans plans(runtime, {grid.data, grid.expert, grid.tensor}, workload);
    const train::PassChoice choice =
        train::fit_passes(runtime, workload.model.name(), plans.plan(), plans.options(grid));
    const train::MemoryPlan plan = plans.plan()(choice);
    const model::Architecture& architecture = plans.architecture();
    StepWorkload chosen = workload;
    chosen.batches.micro_batch = choice.micro_batch;
    model::DecoderSettings& settings = chosen.decoder;
    settings.lora = plans.lora();
    settings.max_tokens = plans.tokens_of_pass(choice.micro_batch, runtime.world.size());
    console.say(describe_step(runtime, chosen, architecture, plan));
    runtime.world.agree([&] {
        train::require_memory(runtime.placement, runtime.placement.node_ranks, workload.model.name(),
                              memory_of_step_check(architecture, settings, grid.expert));
    });
    verify_step(console, architecture, settings, runtime.kernels, runtime.grid);
    return std::make_unique<StepBenchmark>(runtime, architecture, chosen, plan.total());
}

class StepBenchmarkSettings final : public BenchmarkSettings {
public:
    void declare(core::OptionSet& set) override {
        train::BatchSettings& batches = workload_.batches;
        set.add("batch", batches.batch_size, "sequences per step, all ranks together", core::at_least(1));
        set.add("length", workload_.length, "tokens per sequence", core::at_least(2));
        batches.declare_micro_batch(set, StepPlans::micro_batch_key);
        ops::declare_activations(set, StepPlans::activations_key, workload_.decoder.activations);
        set.add(
            "skew", workload_.model.router_skew,
            "how unevenly the experts of random weights are chosen: 0, alike; scores of the first one are larger by "
            "this factor, those of others by less",
            core::within(0, 100));
        set.add_enum("grids", measured_,
                     "auto: the grid that is fastest by the model of costs; or all that fit, as one case each");
    }
    void declare_sections(core::OptionSet& set) override {
        set.need({"model.path", "model.synthetic"});
        workload_.model.declare(set);
        ops::declare_arithmetic(set, workload_.model.arithmetic);
        set.add("lora.rank", workload_.decoder.lora.rank, "rank of the adapters in the measured step",
                core::at_least(1));
        grid_.declare(set);
        workload_.decoder.declare_chunks(set);
    }
    [[nodiscard]] std::vector<CaseGrid> grids(const train::Ranks& ranks) const override {
        return grids_of_step(ranks, grid_, workload_, measured_);
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override {
        return prepare_step(runtime, console, workload_);
    }

private:
    StepWorkload workload_ = {.batches = {.batch_size = 4}, .length = 512};
    mpi::GridSettings grid_;
    MeasuredGrids measured_ = MeasuredGrids::automatic;
};

/// docs/benchmarking.md has the rules: only how ranks share the work may be chosen.
class ReferenceBenchmarkSettings final : public BenchmarkSettings {
public:
    void declare_sections(core::OptionSet& set) override {
        grid_.declare(set);
        workload_.decoder.declare_chunks(set);
    }
    [[nodiscard]] std::vector<CaseGrid> grids(const train::Ranks& ranks) const override {
        return grids_of_step(ranks, grid_, workload_for(ranks), MeasuredGrids::automatic);
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override {
        return prepare_step(runtime, console, workload_for(runtime));
    }

private:
    [[nodiscard]] StepWorkload workload_for(const train::Ranks& ranks) const {
        constexpr index_t tokens_per_thread = 128;
        StepWorkload workload = workload_;
        const index_t of_rank = ranks.placement.threads;
        workload.batches = {.batch_size = ranks.world.size() * of_rank, .micro_batch = of_rank};  // in one pass
        workload.length = tokens_per_thread;
        return workload;
    }

    StepWorkload workload_ = {.model = {.path = {}, .synthetic = "moesaic-reference"}};
    mpi::GridSettings grid_;
};

}  // namespace

std::unique_ptr<BenchmarkSettings> make_step_settings() {
    return std::make_unique<StepBenchmarkSettings>();
}

std::unique_ptr<BenchmarkSettings> make_reference_settings() {
    return std::make_unique<ReferenceBenchmarkSettings>();
}

}  // namespace moesaic::bench
