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
#include <functional>
#include <optional>

namespace moesaic::bench {
namespace {

namespace figures = measure::figures;
using core::bf16;
/// The figure of a quantity for one number of tokens.
using KeyOf = std::function<measure::FigureKey(const std::string& quantity)>;
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
void report_pass(Console& console, const char* pass, const char* quantity, const KeyOf& key,
                 const std::vector<double>& seconds, measure::Better better, const measure::Work& work,
                 const measure::MachineLimits& limits) {
    const measure::Summary time = measure::summarize(seconds);
    const double floor = work.floor_seconds(limits);
    const double reached = 100 * floor / time.median;
    console.add(key(quantity), "ms", better, measure::scaled(1e3, seconds), reached,
                better == measure::Better::neither ? std::nullopt : std::optional(work));
    console.add(key(std::string(quantity) + "_floor"), "percent", measure::Better::neither,
                measure::rates(100 * floor, seconds));
    console.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>10.1f} {:>8.1f} {:>10.2f} {:>8.1f}%\n", pass,
                            time.median * 1e3, time.spread_percent(), work.operations / time.median * 1e-9,
                            work.bytes / time.median * 1e-9, floor * 1e3, reached));
}

void report_lora(Console& console, const LayerShape& shape, index_t rank, const KeyOf& key, const Times& with,
                 const Times& without) {
    std::vector<double> overhead(with.both.size());
    std::transform(with.both.begin(), with.both.end(), without.both.begin(), overhead.begin(),
                   [](double a, double b) { return 100 * (a / b - 1); });
    const measure::Summary percent = measure::summarize(overhead);
    console.add(key("lora_overhead"), "percent", measure::Better::neither, overhead);
    // Multiply-adds of a row and projection, forward and backward: A and B; A and B for the input, gradients of A and
    // B.
    const double lora = 3.0 * 3.0 * static_cast<double>(rank * (shape.hidden + shape.intermediate));
    const double base = 2.0 * static_cast<double>(shape.expert_parameters());
    console.say(fmt::format(
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
    void plan(const Console& console, const LayerBenchmarkSettings& wanted);
    void build(const Console& console, const kernels::KernelSet& kernels);
    void verify(Console& console);
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

void LayerBenchmark::Setup::plan(const Console& console, const LayerBenchmarkSettings& wanted) {
    const index_t most_tokens = *std::max_element(wanted.tokens.begin(), wanted.tokens.end());
    settings = {wanted.shape, std::max(most_tokens, tokens_of_check(wanted.shape)), wanted.lora_rank,
                wanted.activations, 1};
    frozen_settings = settings;
    frozen_settings.lora_rank = 0;
    count = wanted.layers;
    if (wanted.layers == 0) {
        choose_count(wanted.memory_bytes, wanted.cache_bytes);
    }
    count = console.world().min(count);
    const double needed = static_cast<double>(memory()) / gib;
    const double available = static_cast<double>(wanted.memory_bytes) / gib;
    console.say(fmt::format("layers {}{}: {:.2f} GiB per rank, {:.2f} GiB are available; weights {} {:.2f} GiB{}\n",
                            count, has_twins() ? ", and as many without LoRA" : "", needed, available,
                            has_twins() ? "2 x" : "", static_cast<double>(all_weight_bytes()) / gib,
                            all_weight_bytes() < wanted.cache_bytes ? " (they fit into the last-level cache)" : ""));
    console.world().agree([&] {
        core::require(
            memory() <= wanted.memory_bytes, core::ExitCode::out_of_resources,
            "the layers need {:.1f} GiB ({:.1f} GiB are available to a rank); use fewer --tokens, --layers 1, "
            "--lora.rank 0 or fewer --experts",
            needed, available);
    });
}

void LayerBenchmark::Setup::build(const Console& console, const kernels::KernelSet& kernels) {
    console.world().agree([&] {
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
void LayerBenchmark::Setup::verify(Console& console) {
    LayerErrors errors;
    console.world().agree([&] { errors = measure_errors(layers.front(), settings); });
    console.say("against FP32:");
    for (const measure::Check& check : checks_of(errors)) {
        if (has_twins() || check.name != "error_grad_lora") {
            console.add_check(check.name, check.error, check.bound);
            console.say(fmt::format(" {} {:.2e}", check.name.substr(6), check.error));
        }
    }
    console.say(fmt::format(" (at most {})\n", layer_error_bound));
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

LayerBenchmark::LayerBenchmark(Console& console, const kernels::KernelSet& kernels,
                               const LayerBenchmarkSettings& settings)
    : world_(console.world()), settings_(settings), setup_(std::make_unique<Setup>()) {
    const LayerShape& shape = settings.shape;
    console.say(fmt::format("expert layer {}: H {}, I {}, E {}, K {}, LoRA rank {}, BF16, routing {}, kernel {}\n",
                            shape.name, shape.hidden, shape.intermediate, shape.experts, shape.experts_per_token,
                            settings.lora_rank, core::name_of(settings.routing), kernels.gemm_name<bf16>()));
    ops::ExpertConfig config = LayerSettings{.shape = shape, .max_tokens = 1, .lora_rank = settings.lora_rank}.config();
    config.activations = ops::Activations::retain;
    const index_t retained = ops::saved_bytes_per_token<bf16>(config);
    config.activations = ops::Activations::recompute;
    console.say(fmt::format("kept for backward, bytes per token: {} (retain), {} (recompute)\n", retained,
                            ops::saved_bytes_per_token<bf16>(config)));
    setup_->plan(console, settings);
    setup_->build(console, kernels);
    setup_->verify(console);
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

void LayerBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    const LayerShape& shape = settings_.shape;
    console.say(fmt::format("{:<20} {:>10} {:>8} {:>10} {:>8} {:>10} {:>9}\n", "pass", "ms", "", "GFLOP/s", "GB/s",
                            "floor ms", "of floor"));
    for (const auto& pass : passes_) {
        const measure::Work one = work_of_pass(shape, pass->inputs);
        const measure::Work both = {2 * one.operations, 2 * one.bytes};
        const KeyOf key = [&](const std::string& quantity) {
            return figures::of_tokens(quantity, pass->tokens, passes_.size() > 1);
        };
        console.say(fmt::format(
            "{} tokens, {:.1f} rows per expert\n", pass->tokens,
            static_cast<double>(pass->tokens * shape.experts_per_token) / static_cast<double>(shape.experts)));
        report_pass(console, "forward", figures::layer_forward, key, pass->times.forward, measure::Better::lower, one,
                    limits);
        report_pass(console, "backward", figures::layer_backward, key, pass->times.backward, measure::Better::lower,
                    one, limits);
        report_pass(console, "forward_backward", figures::layer_forward_backward, key, pass->times.both,
                    measure::Better::neither, both, limits);
        if (setup_->has_twins()) {
            report_lora(console, shape, settings_.lora_rank, key, pass->times, pass->frozen_times);
        }
        console.add(key("activation_bytes_per_token"), "B",
                    static_cast<double>(pass->times.saved_bytes) / static_cast<double>(pass->tokens));
    }
    console.add("weight_bytes_per_parameter", "B",
                static_cast<double>(setup_->layers.front().backend().experts().weight_bytes()) /
                    static_cast<double>(shape.experts * shape.expert_parameters()));
    console.say("\n");
}

}  // namespace moesaic::bench
