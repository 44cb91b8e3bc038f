#include "bench/step_benchmark.hpp"

#include "bench/step_check.hpp"
#include "bench/step_run.hpp"
#include "bench/step_times.hpp"
#include "bench/timing.hpp"
#include "core/trace.hpp"

#include <fmt/format.h>

#include <array>
#include <functional>
#include <utility>

namespace moesaic::bench {
namespace {

/// All repetitions of a step; what is known of other ranks is there on rank 0 only.
struct StepSamples {
    std::vector<double> seconds;                  ///< of the slowest rank
    std::vector<StepTrace> traces;                ///< of this rank
    std::vector<std::vector<StepShares>> shares;  ///< of all ranks
};

StepSamples measure(Report& report, train::Trainer<core::bf16>& trainer, index_t repeat) {
    StepSamples samples;
    core::trace::enable(true);
    for (index_t i = -1; i < repeat; ++i) {
        (void)core::trace::take();
        const double seconds = seconds_of_slowest(report.world(), [&] { trainer.step(); });
        const StepTrace trace = trace_of_step(core::trace::take());
        std::vector<StepShares> shares = share_out(report.world(), trace);
        if (i < 0) {  // warm-up
            continue;
        }
        samples.seconds.push_back(seconds);
        samples.traces.push_back(trace);
        samples.shares.push_back(std::move(shares));
    }
    core::trace::enable(false);
    return samples;
}

Summary over_samples(const StepSamples& samples, const std::function<double(std::size_t)>& value) {
    std::vector<double> values;
    for (std::size_t i = 0; i < samples.seconds.size(); ++i) {
        values.push_back(value(i));
    }
    return summarize(std::move(values));
}

/// Floating-point operations of a rank with frozen weights: those of one pass, forward or backward.
struct Operations {
    double experts = 0;
    double head = 0;
};

Operations operations_of(const model::Architecture& a, const mpi::ProcessGrid& grid, index_t tokens) {
    const double own_tokens = static_cast<double>(tokens) / grid.world().size();
    // A tensor group computes the choices of its experts, each rank a slice of them.
    const double choices = own_tokens * static_cast<double>(a.moe_layers() * a.experts_per_token);
    return {2 * choices * 3 * static_cast<double>(a.expert_intermediate * a.hidden),
            2 * own_tokens * static_cast<double>(a.vocabulary * a.hidden)};
}

/// Parts of the step on rank 0. The innermost ones are indented.
void report_parts(Report& report, const StepSamples& samples, const Operations& operations,
                  const MachineLimits& machine) {
    struct Part {
        const char* label;
        const char* figure;  ///< or null
        const char* scope;
        double operations;  ///< or 0
    };
    const std::array parts = {Part{"forward", "step_forward", "decoder.forward", 0},
                              Part{"  attention scores", nullptr, "attention.forward", 0},
                              Part{"  experts", "step_experts_forward", "experts.forward", operations.experts},
                              Part{"head and loss", "step_loss", "loss", 2 * operations.head},
                              Part{"backward", "step_backward", "decoder.backward", 0},
                              Part{"  attention scores", nullptr, "attention.backward", 0},
                              Part{"  experts", "step_experts_backward", "experts.backward", operations.experts},
                              Part{"reduce gradients", "step_reduce", "gradients.reduce", 0},
                              Part{"AdamW", "step_optimizer", "optimizer.step", 0}};
    report.say(fmt::format("{:<20} {:>10} {:>8} {:>9} {:>10} {:>8}\n", "part, on rank 0", "ms", "", "of step",
                           "GFLOP/s", "of peak"));
    for (const Part& part : parts) {
        const auto seconds_of = [&](std::size_t i) {
            const auto found = samples.traces[i].of_scope.find(part.scope);
            return found == samples.traces[i].of_scope.end() ? 0.0 : found->second;
        };
        const Summary time = over_samples(samples, seconds_of);
        const Summary share =
            over_samples(samples, [&](std::size_t i) { return 100 * seconds_of(i) / samples.traces[i].total; });
        const double flops = part.operations / time.median;
        report.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>8.1f}%{}\n", part.label, time.median * 1e3,
                               time.spread_percent(), share.median,
                               part.operations > 0
                                   ? fmt::format(" {:>10.1f} {:>7.1f}%", flops * 1e-9, 100 * flops / machine.peak_flops)
                                   : ""));
        if (part.figure != nullptr) {
            report.add(part.figure, "ms", scaled(1e3, time));
        }
    }
}

/// Computing, transfers, waiting and the exchange of rows: a line per rank, and figures of the averages.
void report_ranks(Report& report, const StepSamples& samples) {
    if (!report.world().is_root()) {
        return;
    }
    struct Column {
        const char* label;
        const char* figure;  ///< or null
        double (*percent)(const StepShares&);
    };
    const std::array columns = {
        Column{"computing", nullptr, [](const StepShares& s) { return 100 * s.computing() / s.total; }},
        Column{"transfer", "step_transfer", [](const StepShares& s) { return 100 * s.transfer / s.total; }},
        Column{"waiting", "step_waiting", [](const StepShares& s) { return 100 * s.waiting / s.total; }},
        Column{"exchange", "step_exchange", [](const StepShares& s) { return 100 * s.exchange / s.total; }},
        Column{"of it hidden", "exchange_hidden",
               [](const StepShares& s) { return s.exchange > 0 ? 100 * s.hidden / s.exchange : 0; }}};
    std::string table = fmt::format("\n{:<10}", "rank");
    for (const Column& column : columns) {
        table += fmt::format(" {:>13}", column.label);
    }
    const auto ranks = samples.shares.front().size();
    for (std::size_t rank = 0; rank < ranks; ++rank) {
        table += fmt::format("\n  {:<8}", rank);
        for (const Column& column : columns) {
            const auto percent = [&](std::size_t i) { return column.percent(samples.shares[i][rank]); };
            table += fmt::format(" {:>12.1f}%", over_samples(samples, percent).median);
        }
    }
    report.say(table + "\n");
    for (const Column& column : columns) {
        const auto average = [&](std::size_t i) {
            double sum = 0;
            for (const StepShares& shares : samples.shares[i]) {
                sum += column.percent(shares);
            }
            return sum / static_cast<double>(ranks);
        };
        if (column.figure != nullptr) {
            report.add(column.figure, "percent", over_samples(samples, average));
        }
    }
    report.add("step_imbalance", "percent",
               over_samples(samples, [&](std::size_t i) { return imbalance_percent(samples.shares[i]); }));
}

}  // namespace

void verify_step(Report& report, const model::Architecture& architecture, const model::DecoderSettings& settings,
                 const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid) {
    StepErrors errors = measure_step_errors(architecture, settings, kernels, grid);
    report.world().agree([&] {
        if (report.world().is_root()) {
            require_accurate(errors);
        }
    });
    report.add("error_log_probability", "relative", errors.log_probability);
    report.add("error_grad_lora", "relative", errors.grad_lora);
    report.say(
        fmt::format("a step of a small model of the same widths, verified against FP32: log_probability {:.2e} "
                    "grad_lora {:.2e} (at most {})\n",
                    errors.log_probability, errors.grad_lora, step_error_bound));
}

void run_step_benchmark(Report& report, model::Decoder<core::bf16>& decoder, const kernels::KernelSet& kernels,
                        const mpi::ProcessGrid& grid, const MachineLimits& machine,
                        const StepBenchmarkSettings& settings) {
    const train::Dataset data = random_tokens(settings.batches.batch_size * (settings.repeat + 1), settings.length,
                                              decoder.architecture().vocabulary, 0);
    StepRun<core::bf16> run(decoder, kernels, grid, data, settings.batches);
    randomise(decoder.lora(), 0);
    decoder.update_lora();
    const StepSamples samples = measure(report, run.trainer, settings.repeat);
    const Summary seconds = summarize(samples.seconds);
    const index_t tokens = settings.batches.batch_size * settings.length;
    const index_t token_layers = (settings.repeat + 1) * tokens * decoder.architecture().moe_layers();
    const std::int64_t sent = report.world().sum(decoder.exchange_volume().total());
    const Summary speed = rate(static_cast<double>(tokens), seconds);
    report_parts(report, samples, operations_of(decoder.architecture(), grid, tokens), machine);
    report_ranks(report, samples);
    if (token_layers > 0) {
        report.add("exchange_bytes_per_token", "B", static_cast<double>(sent) / static_cast<double>(token_layers));
    }
    report.add("step_seconds", "s", seconds);
    report.add("step_tokens_per_second", "tokens/s", speed);
    report.say(fmt::format("\n{} tokens per step: {:.4f} s +- {:.1f}%, {:.1f} tokens/s\n", tokens, seconds.median,
                           seconds.spread_percent(), speed.median));
}

}  // namespace moesaic::bench
