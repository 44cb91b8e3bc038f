#include "bench/step_benchmark.hpp"

#include "bench/step_check.hpp"
#include "bench/step_run.hpp"
#include "bench/timing.hpp"
#include "core/trace.hpp"
#include "host/peak_memory.hpp"
#include "measure/step_times.hpp"
#include "measure/trace_drain.hpp"
#include "train/memory_plan.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <utility>

namespace moesaic::bench {
namespace {

namespace figures = measure::figures;

// Work of a rank in one pass, forward or backward; as the weights are frozen, backward has gradients of inputs only.

/// A tensor group computes the choices of its experts, each rank a slice of them. Experts are chosen equally often.
measure::Work work_of_experts(const model::Architecture& a, const mpi::ProcessGrid& grid, index_t tokens) {
    const auto parameters = static_cast<double>(3 * a.expert_intermediate * a.hidden);
    const double choices = static_cast<double>(tokens * a.moe_layers() * a.experts_per_token) / grid.world().size();
    const double chosen = static_cast<double>(a.experts_per_token) / static_cast<double>(a.experts);
    const double replica_tokens = static_cast<double>(tokens) / grid.data().size();
    const double experts_in_use = static_cast<double>(a.experts) * (1 - std::pow(1 - chosen, replica_tokens));
    const double held = experts_in_use * static_cast<double>(a.moe_layers()) * parameters /
                        (grid.expert().size() * grid.tensor().size());
    return {2 * choices * parameters, held * sizeof(core::bf16)};
}

measure::Work work_of_head(const model::Architecture& a, const mpi::ProcessGrid& grid, index_t tokens) {
    const auto parameters = static_cast<double>(a.vocabulary * a.hidden);
    return {2 * parameters * static_cast<double>(tokens) / grid.world().size(), parameters * sizeof(core::bf16)};
}

/// Attention's projections, dense layers and shared experts.
measure::Work work_of_projections(const model::Architecture& a, const mpi::ProcessGrid& grid, index_t tokens) {
    const double parameters = train::replicated_parameters(a);
    return {2 * parameters * static_cast<double>(tokens) / grid.world().size(), parameters * sizeof(core::bf16)};
}

/// Of a whole step: these three after each other, forward and backward.
struct StepWork {
    StepWork(const model::Architecture& a, const mpi::ProcessGrid& grid, index_t tokens)
        : parts{work_of_experts(a, grid, tokens), work_of_projections(a, grid, tokens), work_of_head(a, grid, tokens)} {
    }

    std::array<measure::Work, 3> parts;  ///< of one pass
    static constexpr double passes = 2;

    [[nodiscard]] double floor_seconds(const measure::MachineLimits& limits) const {
        double seconds = 0;
        for (const measure::Work& part : parts) {
            seconds += passes * part.floor_seconds(limits);
        }
        return seconds;
    }
    [[nodiscard]] measure::Work sum() const {
        measure::Work all;
        for (const measure::Work& part : parts) {
            all.operations += passes * part.operations;
            all.bytes += passes * part.bytes;
        }
        return all;
    }
};

}  // namespace

/// All repetitions of a step; what is known of other ranks is there on rank 0 only.
struct StepBenchmark::Samples {
    std::vector<double> seconds;                          ///< of the slowest rank
    std::vector<measure::RankSteps> mine;                 ///< this rank by itself
    std::vector<std::vector<measure::RankSteps>> shares;  ///< of all ranks

    [[nodiscard]] std::vector<double> of_each(const std::function<double(std::size_t)>& value) const {
        std::vector<double> values;
        for (std::size_t i = 0; i < seconds.size(); ++i) {
            values.push_back(value(i));
        }
        return values;
    }
};

/// Sequences for a few steps, which repeat.
struct StepBenchmark::Run {
    static constexpr index_t steps_of_data = 8;

    Run(std::unique_ptr<model::Decoder<core::bf16>> decoder, const kernels::KernelSet& kernels,
        const mpi::ProcessGrid& grid, const StepBenchmarkSettings& settings)
        : data(random_tokens(settings.batches.batch_size * steps_of_data, settings.length,
                             decoder->architecture().vocabulary, 0)),
          session(std::move(decoder), data, settings_of_steps(settings.batches), kernels, grid) {}

    train::Dataset data;
    train::TrainSession<core::bf16> session;
};

StepBenchmark::StepBenchmark(std::unique_ptr<model::Decoder<core::bf16>> decoder, const kernels::KernelSet& kernels,
                             const mpi::ProcessGrid& grid, const StepBenchmarkSettings& settings)
    : grid_(grid),
      settings_(settings),
      run_(std::make_unique<Run>(std::move(decoder), kernels, grid, settings)),
      samples_(std::make_unique<Samples>()) {
    randomise(run_->session.decoder().lora(), 0);
    run_->session.decoder().update_lora();
}

StepBenchmark::~StepBenchmark() = default;

void StepBenchmark::repeat(bool record) {
    const mpi::Communicator& world = grid_.world();
    measure::EventCollector collector;
    const double seconds = seconds_of_slowest(world, [&] { run_->session.step(); });
    const measure::StepTrace trace = measure::trace_of_step(collector.stop());
    if (run_->session.decoder().architecture().moe_layers() > 0) {
        static_cast<void>(trace.rank.seconds_of(core::scopes::exchange_dispatch));  // or the exchange looks like none
    }
    ++steps_;
    std::vector<measure::RankSteps> shares = measure::share_out(world, trace);
    if (record) {
        samples_->seconds.push_back(seconds);
        samples_->mine.push_back(trace.rank);
        samples_->shares.push_back(std::move(shares));
    }
}

std::vector<std::span<const double>> StepBenchmark::samples() const {
    return {samples_->seconds};
}

/// Parts of the step on rank 0. The innermost ones are indented.
void StepBenchmark::report_parts(Console& console, const measure::MachineLimits& limits) const {
    struct Part {
        const char* label;
        const char* figure;  ///< or null
        core::trace::ScopeName scope;
        double operations;     ///< or 0
        bool is_there = true;  ///< false: the step has no such part
    };
    const model::Architecture& architecture = run_->session.decoder().architecture();
    const index_t tokens = settings_.batches.batch_size * settings_.length;
    const double experts = work_of_experts(architecture, grid_, tokens).operations;
    const double head = work_of_head(architecture, grid_, tokens).operations;
    const bool has_experts = architecture.moe_layers() > 0;
    // Backward ends at the experts of the lowest layer with some, as only experts are adapted.
    const auto lowest = std::find(architecture.is_moe.begin(), architecture.is_moe.end(), true);
    const bool passes_attention = architecture.is_moe.end() - lowest > 1;
    const std::array parts = {
        Part{"forward", figures::step_forward, core::scopes::decoder_forward, 0},
        Part{"  attention scores", nullptr, core::scopes::attention_forward, 0},
        Part{"  experts", "step_experts_forward", core::scopes::experts_forward, experts, has_experts},
        Part{"head and loss", figures::step_loss, core::scopes::loss, 2 * head},
        Part{"backward", figures::step_backward, core::scopes::decoder_backward, 0},
        Part{"  attention scores", nullptr, core::scopes::attention_backward, 0, passes_attention},
        Part{"  experts", "step_experts_backward", core::scopes::experts_backward, experts, has_experts},
        Part{"reduce gradients", figures::step_reduce, core::scopes::gradients_reduce, 0},
        Part{"AdamW", figures::step_optimizer, core::scopes::optimizer_step, 0}};
    console.say(fmt::format("{:<20} {:>10} {:>8} {:>9} {:>10} {:>8}\n", "part, on rank 0", "ms", "", "of step",
                            "GFLOP/s", "of peak"));
    for (const Part& part : parts) {
        const auto seconds_of = [&](std::size_t i) {
            return part.is_there ? samples_->mine[i].seconds_of(part.scope) : 0.0;
        };
        const std::vector<double> seconds = samples_->of_each(seconds_of);
        const measure::Summary time = measure::summarize(seconds);
        const measure::Summary share = measure::summarize(
            samples_->of_each([&](std::size_t i) { return 100 * seconds_of(i) / samples_->mine[i].total; }));
        const double flops = part.operations / time.median;
        console.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>8.1f}%{}\n", part.label, time.median * 1e3,
                                time.spread_percent(), share.median,
                                part.operations > 0
                                    ? fmt::format(" {:>10.1f} {:>7.1f}%", flops * 1e-9, 100 * flops / limits.peak_flops)
                                    : ""));
        if (part.figure != nullptr) {
            console.add(part.figure, "ms", measure::Better::neither, measure::scaled(1e3, seconds));
        }
    }
}

/// Computing, transfers, waiting and the exchange of rows: a line per rank, and figures of the averages.
void StepBenchmark::report_ranks(Console& console) const {
    if (!console.world().is_root()) {
        return;
    }
    struct Column {
        const char* label;
        const char* figure;  ///< or null
        double (*percent)(const measure::RankSteps&);
    };
    const std::array columns = {
        Column{"computing", nullptr, [](const measure::RankSteps& s) { return 100 * s.computing() / s.total; }},
        Column{"transfer", "step_transfer", [](const measure::RankSteps& s) { return 100 * s.transfer / s.total; }},
        Column{"waiting", "step_waiting", [](const measure::RankSteps& s) { return 100 * s.waiting / s.total; }},
        Column{"exchange", "step_exchange", [](const measure::RankSteps& s) { return 100 * s.exchange / s.total; }},
        Column{"of it hidden", "exchange_hidden",
               [](const measure::RankSteps& s) { return s.exchange > 0 ? 100 * s.hidden / s.exchange : 0; }}};
    std::string table = fmt::format("\n{:<10}", "rank");
    for (const Column& column : columns) {
        table += fmt::format(" {:>13}", column.label);
    }
    const auto ranks = samples_->shares.front().size();
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        table += fmt::format("\n  {:<8}", rank);
        for (const Column& column : columns) {
            const auto percent = [&](std::size_t i) { return column.percent(samples_->shares[i][rank]); };
            table += fmt::format(" {:>12.1f}%", measure::summarize(samples_->of_each(percent)).median);
        }
    }
    console.say(table + "\n");
    for (const Column& column : columns) {
        const auto average = [&](std::size_t i) {
            double sum = 0;
            for (const measure::RankSteps& shares : samples_->shares[i]) {
                sum += column.percent(shares);
            }
            return sum / static_cast<double>(ranks);
        };
        if (column.figure != nullptr) {
            console.add(column.figure, "percent", measure::Better::neither, samples_->of_each(average));
        }
    }
    console.add("step_imbalance", "percent", measure::Better::neither,
                samples_->of_each([&](std::size_t i) { return measure::imbalance_percent(samples_->shares[i]); }));
}

void StepBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    const model::Architecture& architecture = run_->session.decoder().architecture();
    const index_t tokens = settings_.batches.batch_size * settings_.length;
    report_parts(console, limits);
    report_ranks(console);
    const std::int64_t sent = console.world().sum(run_->session.decoder().exchange_volume().total());
    if (const index_t token_layers = steps_ * tokens * architecture.moe_layers(); token_layers > 0) {
        console.add("exchange_bytes_per_token", "B", static_cast<double>(sent) / static_cast<double>(token_layers));
    }
    const StepWork work(architecture, grid_, tokens);
    const double floor = work.floor_seconds(limits);
    const measure::Summary seconds = measure::summarize(samples_->seconds);
    const double reached = 100 * floor / seconds.median;
    const std::vector<double> speed = measure::rates(static_cast<double>(tokens), samples_->seconds);
    console.add("step_seconds", "s", measure::Better::neither, samples_->seconds, reached, work.sum());
    console.add(figures::step_tokens_per_second, "tokens/s", measure::Better::higher, speed, reached);
    console.add("step_floor", "percent", measure::Better::neither, measure::rates(100 * floor, samples_->seconds));
    console.say(fmt::format("\n{} tokens per step: {:.4f} s +- {:.1f}%, {:.1f} tokens/s, {:.1f}% of the floor\n",
                            tokens, seconds.median, seconds.spread_percent(), measure::summarize(speed).median,
                            reached));
    constexpr double gib = 1024.0 * 1024.0 * 1024.0;
    const double peak =
        console.world().max(static_cast<double>(host::peak_memory_bytes() -
                                                std::min(host::peak_memory_bytes(), settings_.resident_before)) /
                            gib);
    console.add("memory_plan", "GiB", settings_.planned_bytes / gib);
    console.add("memory_peak", "GiB", peak);
    console.say(fmt::format("memory of a rank: {:.2f} GiB at the peak, {:.2f} GiB planned\n\n", peak,
                            settings_.planned_bytes / gib));
}

void verify_step(Console& console, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid) {
    const StepErrors errors = measure_step_errors(architecture, settings, kernels, grid);
    console.say("a step of a small model of the same widths, against FP32:");
    for (const measure::Check& check : checks_of(errors)) {  // known on rank 0, zeros elsewhere
        console.add_check(check.name, check.error, check.bound);
        console.say(fmt::format(" {} {:.2e}", check.name.substr(6), check.error));
    }
    console.say(fmt::format(" (at most {})\n", step_error_bound));
}

}  // namespace moesaic::bench
