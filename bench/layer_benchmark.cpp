// moesaic bench layer: forward and backward of one expert layer with LoRA.
#include "bench/benchmark.hpp"
#include "bench/layer_check.hpp"
#include "bench/layer_twins.hpp"
#include "bench/routing.hpp"
#include "bench/shapes.hpp"
#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/random_fill.hpp"
#include "model/weights/synthetic.hpp"
#include "ops/activations_option.hpp"
#include "ops/arithmetic_option.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::bench {
namespace {

namespace figures = measure::figures;
using core::bf16;
/// The figure of a quantity for one number of tokens.
using KeyOf = std::function<measure::FigureKey(const std::string& quantity)>;

struct LayerBenchmarkSettings final : BenchmarkSettings {
    void declare(core::OptionSet& set) override {
        set.add("shape", shape_name,
                fmt::format("sizes of a model's expert layer: {}", fmt::join(model::synthetic_names(), ", ")));
        set.add("hidden", sizes.hidden, "hidden size; 0: that of the shape", core::at_least(0));
        set.add("intermediate", sizes.intermediate, "intermediate size of an expert; 0: that of the shape",
                core::at_least(0));
        set.add("experts", sizes.experts, "number of experts; 0: that of the shape", core::at_least(0));
        set.add("experts-per-token", sizes.experts_per_token, "experts that a token goes to; 0: those of the shape",
                core::at_least(0));
        set.add("tokens", token_list, "tokens per pass, separated by commas");
        set.add_enum("routing", routing,
                     "uniform: all experts equally often; skewed: popularity 1/rank; hot: one expert gets all tokens");
        set.add_enum("weights", weights, "format of the frozen weights: bf16, fp8, int8, int4 or mxfp4; auto: bf16");
        ops::declare_activations(set, "activations", activations);
        constexpr index_t most_layers = 1000;
        set.add_auto("layers", layers, most_layers,
                     "layers that take turns; auto: enough that weights come from memory, not from caches");
    }
    void declare_sections(core::OptionSet& set) override {
        set.add("lora.rank", lora_rank, "rank of the adapters of the measured layer; 0: frozen experts alone",
                core::at_least(0));
        ops::declare_arithmetic(set, arithmetic);
    }
    void check(index_t) const override {
        core::require(activations != ops::Activations::layer, core::ExitCode::usage,
                      "activations = layer (routed experts alone are measured, which keep no more then than with "
                      "recompute); set retain or recompute, or take bench step");
        static_cast<void>(format());
        static_cast<void>(shape());
        static_cast<void>(tokens());
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override;

    [[nodiscard]] LayerShape shape() const { return layer_shape(shape_name).with(sizes); }
    [[nodiscard]] std::vector<index_t> tokens() const { return parse_sizes("tokens", token_list); }
    [[nodiscard]] LayerSettings layer() const {
        const std::vector<index_t> all = tokens();
        const index_t most_tokens = std::max(*std::max_element(all.begin(), all.end()), tokens_of_check(shape()));
        return {shape(), most_tokens, lora_rank, activations, 1, format()};
    }
    [[nodiscard]] ops::WeightFormat format() const {
        return ops::chosen_format(weights, arithmetic, "--weights").value_or(ops::WeightFormat::bf16);
    }

    std::string shape_name = "qwen3-30b-a3b";
    LayerShape sizes;  ///< other ones than those of the shape
    std::string token_list = "2048";
    Routing routing = Routing::uniform;
    ops::WeightChoice weights = ops::WeightChoice::automatic;
    ops::ExpertArithmetic arithmetic = ops::ExpertArithmetic::automatic;
    ops::Activations activations = ops::Activations::retain;
    index_t layers = 0;
    index_t lora_rank = 16;
};

/// Seconds per layer of every repetition.
struct Times {
    Samples forward;
    Samples backward;
    Samples both;
    std::size_t kept_bytes = 0;  ///< of a layer between forward and backward
};

struct Inputs {
    Inputs(const LayerShape& shape, Routing routing, index_t tokens, index_t layers) {
        hidden.resize(tokens, shape.hidden);
        grad_output.resize(tokens, shape.hidden);
        core::fill_random<bf16>(hidden, 2, 0, 1);
        core::fill_random<bf16>(grad_output, 2, 1, 1);
        for (index_t i = 0; i < layers; ++i) {
            routes.push_back(make_routes(routing, tokens, shape, static_cast<std::uint64_t>(i)));
        }
    }
    Matrix<bf16> hidden;
    Matrix<bf16> grad_output;
    std::vector<Routes> routes;  ///< per layer
};

/// All layers forward, then all backward, as in training: a layer's weights leave the caches before its backward.
void sweep(const mpi::Communicator& world, LayerTwins::Layers& layers, const Inputs& inputs, Times& times) {
    const double per_layer = 1 / static_cast<double>(layers.size());
    const Sample forward = seconds_of(world, [&] {
        for (std::size_t i = 0; i < layers.size(); ++i) {
            layers[i].forward(inputs.hidden, inputs.routes[i]);
        }
    });
    times.kept_bytes = layers.front().kept_bytes();
    const Sample backward = seconds_of(world, [&] {
        for (std::size_t i = layers.size(); i-- > 0;) {
            layers[i].backward(inputs.grad_output);
        }
    });
    times.forward.push_back(forward * per_layer);
    times.backward.push_back(backward * per_layer);
    times.both.push_back((forward + backward) * per_layer);
}

/// What one pass must do at least: base weights only, each expert in use read once.
measure::Work work_of_pass(const LayerShape& shape, ops::WeightFormat format, const Inputs& inputs) {
    index_t experts = 0;
    for (const Routes& routes : inputs.routes) {
        experts += routes.experts_in_use();
    }
    const double experts_per_layer = static_cast<double>(experts) / static_cast<double>(inputs.routes.size());
    const double rows = static_cast<double>(inputs.hidden.rows() * shape.experts_per_token);
    const auto parameters = static_cast<double>(shape.expert_parameters());
    return {2 * rows * parameters, experts_per_layer * parameters * ops::bytes_per_weight(format)};
}

/// One line of the table and its figures. Of both passes together, `better` is none: their sum says nothing new.
void report_pass(Console& console, const char* pass, const char* quantity, const KeyOf& key, const Samples& seconds,
                 measure::Better better, const measure::Work& work, const measure::MachineLimits& limits) {
    const measure::Summary time = measure::summarize(seconds.slowest);
    const double floor = work.floor_seconds(limits);
    const double reached = 100 * floor / time.median;
    console.add(key(quantity), "ms", better, seconds.scaled(1e3), reached,
                better == measure::Better::neither ? std::nullopt : std::optional(work));
    console.add(key(std::string(quantity) + "_floor"), "percent", measure::Better::neither,
                measure::rates(100 * floor, seconds.slowest));
    console.say(fmt::format("  {:<18} {:>10.2f} +- {:4.1f}% {:>10.1f} {:>8.1f} {:>10.2f} {:>9}\n", pass,
                            time.median * 1e3, time.spread_percent(), work.operations / time.median * 1e-9,
                            work.bytes / time.median * 1e-9, floor * 1e3, percent_of_limit(reached)));
}

void report_lora(Console& console, const LayerShape& shape, index_t lora_rank, const KeyOf& key, const Times& with,
                 const Times& without) {
    std::vector<double> overhead(with.both.slowest.size());
    std::transform(with.both.slowest.begin(), with.both.slowest.end(), without.both.slowest.begin(), overhead.begin(),
                   [](double a, double b) { return 100 * (a / b - 1); });
    const measure::Summary percent = measure::summarize(overhead);
    console.add(key("lora_overhead"), "percent", measure::Better::neither, overhead);
    // Multiply-adds of a row and projection, forward and backward: A and B; A and B for the input, gradients of A and
    // B.
    const double lora = 3.0 * 3.0 * static_cast<double>(lora_rank * (shape.hidden + shape.intermediate));
    const double base = 2.0 * static_cast<double>(shape.expert_parameters());
    console.say(fmt::format(
        "  LoRA costs {:.1f} % [{:.1f}, {:.1f}] over frozen experts ({:.2f} ms), for {:.1f} % more operations\n",
        percent.median, percent.low, percent.high, measure::summarize(without.both.slowest).median * 1e3,
        100 * lora / base));
}

/// One number of tokens.
struct Pass {
    Inputs inputs;
    Times times = {};
    Times frozen_times = {};

    [[nodiscard]] index_t tokens() const { return inputs.hidden.rows(); }
};

/// Every rank has whole layers of its own.
class LayerBenchmark final : public Benchmark {
public:
    /// Collective. Builds the layers and checks the first against FP32.
    LayerBenchmark(const train::Runtime& runtime, Console& console, const LayerBenchmarkSettings& settings);

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    mpi::Communicator world_;
    LayerTwins twins_;
    double weight_bytes_;
    std::vector<Pass> passes_;  ///< of every number of tokens
};

/// Says what is measured and what a layer of it keeps.
void describe(const LayerBenchmarkSettings& settings, const kernels::KernelSet& kernels, const Console& console) {
    const LayerShape shape = settings.shape();
    const bool uses_integers = ops::access_to<bf16>(settings.format()) == ops::Access::integers;
    const std::string kernel = uses_integers ? fmt::format("{}, {} for frozen weights", kernels.gemm_name<bf16>(),
                                                           kernels.gemm_name<std::int8_t>())
                                             : std::string(kernels.gemm_name<bf16>());
    console.say(fmt::format(
        "expert layer {}: H {}, I {}, E {}, K {}, LoRA rank {}, weights {}, routing {}, kernel {}\n", shape.name,
        shape.hidden, shape.intermediate, shape.experts, shape.experts_per_token, settings.lora_rank,
        ops::facts_of(settings.format()).name, core::name_of(settings.routing), kernel));
    ops::ExpertConfig config = LayerSettings{.shape = shape, .max_tokens = 1, .lora_rank = settings.lora_rank}.config();
    config.activations = ops::Activations::retain;
    const double retained = kept_bytes(config, 1, kernels);
    config.activations = ops::Activations::recompute;
    console.say(fmt::format("kept for backward, bytes per token: {:.0f} (retain), {:.0f} (recompute)\n", retained,
                            kept_bytes(config, 1, kernels)));
}

LayerBenchmark::LayerBenchmark(const train::Runtime& runtime, Console& console, const LayerBenchmarkSettings& settings)
    : world_(runtime.world),
      twins_(runtime, console, settings.layer(), settings.layers),
      weight_bytes_(static_cast<double>(twins_.layers().front().experts().weight_bytes())) {
    for (const index_t tokens : settings.tokens()) {
        passes_.push_back({Inputs(settings.shape(), settings.routing, tokens, twins_.count())});
    }
}

void LayerBenchmark::repeat(bool record) {
    for (Pass& pass : passes_) {
        Times warm_up;
        sweep(world_, twins_.layers(), pass.inputs, record ? pass.times : warm_up);
        if (twins_.has_twins()) {
            sweep(world_, twins_.frozen(), pass.inputs, record ? pass.frozen_times : warm_up);
        }
    }
}

std::vector<std::span<const double>> LayerBenchmark::samples() const {
    std::vector<std::span<const double>> all;
    for (const Pass& pass : passes_) {
        all.emplace_back(pass.times.forward.slowest);
        all.emplace_back(pass.times.backward.slowest);
    }
    return all;
}

void LayerBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    const LayerShape& shape = twins_.settings().shape;
    console.say(fmt::format("{:<20} {:>10} {:>8} {:>10} {:>8} {:>10} {:>9}\n", "pass", "ms", "", "GFLOP/s", "GB/s",
                            "floor ms", "of floor"));
    for (const Pass& pass : passes_) {
        const measure::Work one = work_of_pass(shape, twins_.settings().weights, pass.inputs);
        const measure::Work both = {2 * one.operations, 2 * one.bytes};
        const KeyOf key = [&](const std::string& quantity) {
            return figures::of_tokens(quantity, pass.tokens(), passes_.size() > 1);
        };
        console.say(fmt::format(
            "{}, {:.1f} rows per expert\n", core::counted(pass.tokens(), "token"),
            static_cast<double>(pass.tokens() * shape.experts_per_token) / static_cast<double>(shape.experts)));
        report_pass(console, "forward", figures::layer_forward, key, pass.times.forward, measure::Better::lower, one,
                    limits);
        report_pass(console, "backward", figures::layer_backward, key, pass.times.backward, measure::Better::lower, one,
                    limits);
        report_pass(console, "forward_backward", figures::layer_forward_backward, key, pass.times.both,
                    measure::Better::neither, both, limits);
        if (twins_.has_twins()) {
            report_lora(console, shape, twins_.settings().lora_rank, key, pass.times, pass.frozen_times);
        }
        console.add(key("activation_bytes_per_token"), "B",
                    static_cast<double>(pass.times.kept_bytes) / static_cast<double>(pass.tokens()));
    }
    console.add("weight_bytes_per_parameter", "B",
                weight_bytes_ / static_cast<double>(shape.experts * shape.expert_parameters()));
    console.say("\n");
}

std::unique_ptr<Benchmark> LayerBenchmarkSettings::prepare(const train::Runtime& runtime, Console& console) const {
    describe(*this, runtime.kernels, console);
    return std::make_unique<LayerBenchmark>(runtime, console, *this);
}

}  // namespace

std::unique_ptr<BenchmarkSettings> make_layer_settings() {
    return std::make_unique<LayerBenchmarkSettings>();
}

}  // namespace moesaic::bench
