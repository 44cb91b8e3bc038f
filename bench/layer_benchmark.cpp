#include "bench/layer_benchmark.hpp"

#include "bench/expert_layer.hpp"
#include "bench/layer_check.hpp"
#include "bench/routing.hpp"
#include "bench/timing.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/random_fill.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <optional>

namespace moesaic::bench {
namespace {

using core::bf16;
using Layers = std::deque<ExpertLayer<bf16>>;  // layers keep their address

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// Seconds per layer of every repetition, on the slowest rank.
struct Times {
    std::vector<double> forward;
    std::vector<double> backward;
    std::vector<double> both;
    std::size_t saved_bytes = 0;  ///< of a layer between forward and backward
};

struct Inputs {
    Inputs(const LayerBenchmarkSettings& settings, index_t tokens, index_t layers) {
        hidden.resize(tokens, settings.shape.hidden);
        grad_output.resize(tokens, settings.shape.hidden);
        core::fill_random<bf16>(hidden, 2, 0, 1);
        core::fill_random<bf16>(grad_output, 2, 1, 1);
        for (index_t i = 0; i < layers; ++i) {
            routes.push_back(make_routes(settings.routing, tokens, settings.shape, static_cast<std::uint64_t>(i)));
        }
    }
    Matrix<bf16> hidden;
    Matrix<bf16> grad_output;
    std::vector<Routes> routes;  ///< per layer
};

/// All layers forward, then all backward, as in training: a layer's weights leave the caches before its backward.
void sweep(const mpi::Communicator& world, Layers& layers, const Inputs& inputs, Times& times) {
    const auto count = static_cast<double>(layers.size());
    const double forward = seconds_of_slowest(world, [&] {
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const Routes& routes = inputs.routes[i];
            layers[i].backend().forward(inputs.hidden.view(), routes.experts.view(), routes.weights.view(),
                                        /*save_for_backward=*/true);
        }
    });
    times.saved_bytes = layers.front().backend().saved_bytes();
    const double backward = seconds_of_slowest(world, [&] {
        for (std::size_t i = layers.size(); i-- > 0;) {
            layers[i].backend().backward(inputs.grad_output.view());
        }
    });
    times.forward.push_back(forward / count);
    times.backward.push_back(backward / count);
    times.both.push_back((forward + backward) / count);
}

/// What one pass must do at least: base weights only, each expert in use read once.
measure::Work work_of_pass(const LayerShape& shape, const Inputs& inputs) {
    index_t experts = 0;
    for (const Routes& routes : inputs.routes) {
        experts += routes.experts_in_use();
    }
    const double experts_per_layer = static_cast<double>(experts) / static_cast<double>(inputs.routes.size());
    const double rows = static_cast<double>(inputs.hidden.rows() * shape.experts_per_token);
    const auto parameters = static_cast<double>(shape.expert_parameters());
    return {2 * rows * parameters, experts_per_layer * parameters * sizeof(bf16)};
}

/// One line of the table and its figures. Of both passes together, `better` is none: their sum says nothing new.
void report_pass(Report& report, const std::string& pass, const std::string& suffix, const std::vector<double>& seconds,
                 measure::Better better, const measure::Work& work, const measure::MachineLimits& limits) {
    const measure::Summary time = measure::summarize(seconds);
    const double floor = work.floor_seconds(limits);
    const double reached = 100 * floor / time.median;
    report.add("layer_" + pass + suffix, "ms", better, measure::scaled(1e3, seconds), reached,
               better == measure::Better::neither ? std::nullopt : std::optional(work));
    report.add("layer_" + pass + "_floor" + suffix, "percent", measure::Better::neither,
               measure::rates(100 * floor, seconds));
    report.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>10.1f} {:>8.1f} {:>10.2f} {:>8.1f}%\n", pass,
                           time.median * 1e3, time.spread_percent(), work.operations / time.median * 1e-9,
                           work.bytes / time.median * 1e-9, floor * 1e3, reached));
}

void report_lora(Report& report, const LayerShape& shape, index_t rank, const std::string& suffix, const Times& with,
                 const Times& without) {
    std::vector<double> overhead(with.both.size());
    std::transform(with.both.begin(), with.both.end(), without.both.begin(), overhead.begin(),
                   [](double a, double b) { return 100 * (a / b - 1); });
    const measure::Summary percent = measure::summarize(overhead);
    report.add("lora_overhead" + suffix, "percent", measure::Better::neither, overhead);
    // Multiply-adds of a row and projection, forward and backward: A and B; A and B for the input, gradients of A and
    // B.
    const double lora = 3.0 * 3.0 * static_cast<double>(rank * (shape.hidden + shape.intermediate));
    const double base = 2.0 * static_cast<double>(shape.expert_parameters());
    report.say(fmt::format(
        "  LoRA costs {:.1f} % [{:.1f}, {:.1f}] over frozen experts ({:.2f} ms), for {:.1f} % more operations\n",
        percent.median, percent.low, percent.high, measure::summarize(without.both).median * 1e3, 100 * lora / base));
}

}  // namespace

/// The layers with LoRA, or frozen ones if the rank is 0, and their frozen twins if it is not.
struct LayerBenchmark::Setup {
    LayerSettings settings;
    LayerSettings frozen_settings;
    index_t count = 0;
    Layers layers;
    Layers frozen;

    [[nodiscard]] bool has_twins() const { return settings.lora_rank > 0; }
    [[nodiscard]] index_t memory() const {
        return memory_of_layers(settings, count) + (has_twins() ? memory_of_layers(frozen_settings, count) : 0);
    }
    [[nodiscard]] index_t all_weight_bytes() const { return count * weight_bytes(settings.shape); }

    void choose_count(index_t memory_bytes, index_t cache_bytes);
    void plan(const Report& report, const LayerBenchmarkSettings& wanted);
    void build(const Report& report, const kernels::KernelSet& kernels);
    void verify(Report& report);
};

/// Takes as many layers as have three times the weights that the last-level cache holds, so that they come from memory;
/// as far as they fit, and not without bound for tiny layers.
void LayerBenchmark::Setup::choose_count(index_t memory_bytes, index_t cache_bytes) {
    constexpr index_t most = 64;
    for (count = 1; count < most && all_weight_bytes() < 3 * cache_bytes; ++count) {
    }
    while (count > 1 && memory() > memory_bytes) {
        --count;
    }
}

void LayerBenchmark::Setup::plan(const Report& report, const LayerBenchmarkSettings& wanted) {
    const index_t most_tokens = *std::max_element(wanted.tokens.begin(), wanted.tokens.end());
    settings = {wanted.shape, std::max(most_tokens, tokens_of_check(wanted.shape)), wanted.lora_rank,
                wanted.activations, 1};
    frozen_settings = settings;
    frozen_settings.lora_rank = 0;
    count = wanted.layers;
    if (wanted.layers == 0) {
        choose_count(wanted.memory_bytes, wanted.cache_bytes);
    }
    count = report.world().min(count);
    const double needed = static_cast<double>(memory()) / gib;
    const double available = static_cast<double>(wanted.memory_bytes) / gib;
    report.say(fmt::format("layers {}{}: {:.2f} GiB per rank, {:.2f} GiB are available; weights {} {:.2f} GiB{}\n",
                           count, has_twins() ? ", and as many without LoRA" : "", needed, available,
                           has_twins() ? "2 x" : "", static_cast<double>(all_weight_bytes()) / gib,
                           all_weight_bytes() < wanted.cache_bytes ? " (they fit into the last-level cache)" : ""));
    report.world().agree([&] {
        core::require(
            memory() <= wanted.memory_bytes, core::ExitCode::out_of_resources,
            "the layers need {:.1f} GiB ({:.1f} GiB are available to a rank); use fewer --tokens, --layers 1, "
            "--lora.rank 0 or fewer --experts",
            needed, available);
    });
}

void LayerBenchmark::Setup::build(const Report& report, const kernels::KernelSet& kernels) {
    report.world().agree([&] {
        const auto workspace = std::make_shared<ops::ExpertWorkspace<bf16>>();
        for (index_t i = 0; i < count; ++i) {
            LayerSettings own = settings;
            own.seed += static_cast<std::uint64_t>(i);
            layers.emplace_back(own, workspace, kernels);
            if (has_twins()) {
                own.lora_rank = 0;
                frozen.emplace_back(own, workspace, kernels);
            }
        }
    });
}

/// Collective. The first layer against FP32.
void LayerBenchmark::Setup::verify(Report& report) {
    LayerErrors errors;
    report.world().agree([&] { errors = measure_errors(layers.front(), settings); });
    report.say("against FP32:");
    for (const measure::Check& check : checks_of(errors)) {
        if (has_twins() || check.name != "error_grad_lora") {
            report.add_check(check.name, check.error, check.bound);
            report.say(fmt::format(" {} {:.2e}", check.name.substr(6), check.error));
        }
    }
    report.say(fmt::format(" (at most {})\n", layer_error_bound));
}

/// One number of tokens.
struct LayerBenchmark::Pass {
    Pass(const LayerBenchmarkSettings& settings, index_t tokens_in, index_t layers)
        : tokens(tokens_in), inputs(settings, tokens_in, layers) {}
    index_t tokens;
    Inputs inputs;
    Times times;
    Times frozen_times;
};

LayerBenchmark::LayerBenchmark(Report& report, const kernels::KernelSet& kernels,
                               const LayerBenchmarkSettings& settings)
    : world_(report.world()), settings_(settings), setup_(std::make_unique<Setup>()) {
    const LayerShape& shape = settings.shape;
    report.say(fmt::format("expert layer {}: H {}, I {}, E {}, K {}, LoRA rank {}, BF16, routing {}, kernel {}\n",
                           shape.name, shape.hidden, shape.intermediate, shape.experts, shape.experts_per_token,
                           settings.lora_rank, core::name_of(settings.routing), kernels.gemm_name<bf16>()));
    ops::ExpertConfig config = LayerSettings{.shape = shape, .max_tokens = 1, .lora_rank = settings.lora_rank}.config();
    config.activations = ops::Activations::retain;
    const index_t retained = ops::saved_bytes_per_token<bf16>(config);
    config.activations = ops::Activations::recompute;
    report.say(fmt::format("kept for backward, bytes per token: {} (retain), {} (recompute)\n", retained,
                           ops::saved_bytes_per_token<bf16>(config)));
    setup_->plan(report, settings);
    setup_->build(report, kernels);
    setup_->verify(report);
    for (const index_t tokens : settings.tokens) {
        passes_.push_back(std::make_unique<Pass>(settings, tokens, setup_->count));
    }
}

LayerBenchmark::~LayerBenchmark() = default;

void LayerBenchmark::repeat(bool record) {
    for (const auto& pass : passes_) {
        Times warm_up;
        sweep(world_, setup_->layers, pass->inputs, record ? pass->times : warm_up);
        if (setup_->has_twins()) {
            sweep(world_, setup_->frozen, pass->inputs, record ? pass->frozen_times : warm_up);
        }
    }
}

std::vector<std::span<const double>> LayerBenchmark::samples() const {
    std::vector<std::span<const double>> all;
    for (const auto& pass : passes_) {
        all.emplace_back(pass->times.forward);
        all.emplace_back(pass->times.backward);
    }
    return all;
}

void LayerBenchmark::report(Report& report, const measure::MachineLimits& limits) const {
    const LayerShape& shape = settings_.shape;
    report.say(fmt::format("{:<20} {:>10} {:>8} {:>10} {:>8} {:>10} {:>9}\n", "pass", "ms", "", "GFLOP/s", "GB/s",
                           "floor ms", "of floor"));
    for (const auto& pass : passes_) {
        const measure::Work one = work_of_pass(shape, pass->inputs);
        const measure::Work both = {2 * one.operations, 2 * one.bytes};
        const std::string suffix = passes_.size() > 1 ? fmt::format("_T{}", pass->tokens) : "";
        report.say(fmt::format(
            "{} tokens, {:.1f} rows per expert\n", pass->tokens,
            static_cast<double>(pass->tokens * shape.experts_per_token) / static_cast<double>(shape.experts)));
        report_pass(report, "forward", suffix, pass->times.forward, measure::Better::lower, one, limits);
        report_pass(report, "backward", suffix, pass->times.backward, measure::Better::lower, one, limits);
        report_pass(report, "forward_backward", suffix, pass->times.both, measure::Better::neither, both, limits);
        if (setup_->has_twins()) {
            report_lora(report, shape, settings_.lora_rank, suffix, pass->times, pass->frozen_times);
        }
        report.add("activation_bytes_per_token" + suffix, "B",
                   static_cast<double>(pass->times.saved_bytes) / static_cast<double>(pass->tokens));
    }
    report.add("weight_bytes_per_parameter", "B",
               static_cast<double>(setup_->layers.front().backend().weight_bytes()) /
                   static_cast<double>(shape.experts * shape.expert_parameters()));
    report.say("\n");
}

}  // namespace moesaic::bench
