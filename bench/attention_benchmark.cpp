// moesaic bench attention: causal attention of one long sequence, forward and backward.
#include "bench/benchmark.hpp"
#include "bench/shapes.hpp"
#include "core/random_fill.hpp"
#include "mpi/timing.hpp"
#include "ops/attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::bench {
namespace {

using core::bf16;
using core::Matrix;

class AttentionBenchmarkSettings final : public BenchmarkSettings {
public:
    void declare(core::OptionSet& set) override {
        set.add("lengths", lengths_, "tokens of the sequence, separated by commas");
        set.add("heads", shape_.heads, "heads of queries", core::at_least(1));
        set.add("kv-heads", shape_.kv_heads, "heads of keys and values, of which the heads are a multiple",
                core::at_least(1));
        set.add("head-size", shape_.head_size, "elements of a head", core::at_least(1));
        set.add("window", shape_.window, "tokens that a query sees, itself included; 0: all before it",
                core::at_least(0));
    }
    void check(index_t) const override {
        static_cast<void>(lengths());
        core::require(shape_.heads % shape_.kv_heads == 0, core::ExitCode::usage,
                      "heads = {} is no multiple of kv-heads = {} (heads share keys evenly); change one of them",
                      shape_.heads, shape_.kv_heads);
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override;

    [[nodiscard]] std::vector<index_t> lengths() const { return parse_sizes("lengths", lengths_); }
    [[nodiscard]] ops::AttentionShape shape() const {
        ops::AttentionShape shape = shape_;
        shape.value_size = shape.head_size;
        shape.scale = 1 / std::sqrt(static_cast<double>(shape.head_size));
        return shape;
    }

private:
    std::string lengths_ = "4096,8192,16384,32768";
    ops::AttentionShape shape_ = {.heads = 32, .kv_heads = 4, .head_size = 128};
};

/// One sequence, and what attention makes of it.
struct Sequence {
    Sequence(const ops::AttentionShape& shape, index_t length) : offsets{0, length} {
        const std::array<Matrix<bf16>*, 4> inputs = {&query, &key, &value, &grad_output};
        const std::array<index_t, 4> heads = {shape.heads, shape.kv_heads, shape.kv_heads, shape.heads};
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            inputs[i]->resize(length, heads[i] * shape.head_size);
            core::fill_random<bf16>(inputs[i]->view(), 1, i, 1);
        }
        output.resize(length, query.cols());
        log_sum.resize(length, shape.heads);
        grad_query.resize(length, query.cols());
        grad_key.resize(length, key.cols());
        grad_value.resize(length, value.cols());
    }
    [[nodiscard]] ops::AttentionInputs<bf16> inputs() const { return {{query}, {key}, {value}, offsets}; }
    void forward(const kernels::KernelSet& kernels, const ops::AttentionShape& shape) {
        ops::attention_forward<bf16>(kernels, shape, inputs(), output, {}, log_sum);
    }
    void backward(const kernels::KernelSet& kernels, const ops::AttentionShape& shape) {
        ops::attention_backward<bf16>(kernels, shape, inputs(), output, log_sum, grad_output, grad_query, grad_key,
                                      grad_value);
    }
    /// Multiplications and additions of forward; backward has five products where forward has two.
    [[nodiscard]] double operations(const ops::AttentionShape& shape) const {
        double pairs = 0;
        for (index_t i = 0; i < offsets.back(); ++i) {
            pairs += static_cast<double>(i + 1 - shape.first_key(i));
        }
        return 4 * pairs * static_cast<double>(shape.heads * shape.head_size);
    }

    std::vector<index_t> offsets;
    Matrix<bf16> query;
    Matrix<bf16> key;
    Matrix<bf16> value;
    Matrix<bf16> grad_output;
    Matrix<bf16> output;
    Matrix<float> log_sum;
    Matrix<float> grad_query;
    Matrix<float> grad_key;
    Matrix<float> grad_value;
    Samples forward_seconds;
    Samples backward_seconds;
};

/// The largest error of some elements of the output, computed in double, relative to the largest of them.
double output_error(const ops::AttentionShape& shape, const Sequence& s) {
    constexpr index_t rows = 7;
    const index_t length = s.offsets.back();
    double error = 0;
    double largest = 0;
    std::vector<double> weights(static_cast<std::size_t>(length));
    for (index_t i = 0; i < rows; ++i) {
        const index_t row = (length - 1) * (i + 1) / rows;
        const index_t head = i % shape.heads;
        const index_t kv_begin = head / (shape.heads / shape.kv_heads) * shape.head_size;
        const bf16* q = s.query.view()[row] + head * shape.head_size;
        double sum = 0;
        for (index_t k = shape.first_key(row); k <= row; ++k) {
            double score = 0;
            for (index_t d = 0; d < shape.head_size; ++d) {
                score += double{core::widen(q[d])} * double{core::widen(s.key.view()(k, kv_begin + d))};
            }
            sum += weights[static_cast<std::size_t>(k)] = std::exp(shape.scale * score);
        }
        for (index_t d = 0; d < shape.head_size; ++d) {
            double expected = 0;
            for (index_t k = shape.first_key(row); k <= row; ++k) {
                expected +=
                    weights[static_cast<std::size_t>(k)] / sum * double{core::widen(s.value.view()(k, kv_begin + d))};
            }
            const double found = double{core::widen(s.output.view()(row, head * shape.head_size + d))};
            error = std::max(error, std::abs(found - expected));
            largest = std::max(largest, std::abs(expected));
        }
    }
    return error / largest;
}

class AttentionBenchmark final : public Benchmark {
public:
    /// Collective. Computes everything once and checks it.
    AttentionBenchmark(const train::Runtime& runtime, Console& console, const AttentionBenchmarkSettings& settings)
        : world_(runtime.world), kernels_(runtime.kernels), shape_(settings.shape()) {
        constexpr double error_bound = 1e-2;  // two roundings to BF16 of each element, as large as the largest
        world_.agree([&] {
            for (const index_t length : settings.lengths()) {
                sequences_.push_back(std::make_unique<Sequence>(shape_, length));
            }
        });
        for (const auto& s : sequences_) {
            s->forward(kernels_, shape_);
            s->backward(kernels_, shape_);
            console.add_check(fmt::format("error_attention_{}", s->offsets.back()), output_error(shape_, *s),
                              error_bound);
        }
    }

    void repeat(bool record) override {
        for (const auto& s : sequences_) {
            const Sample forward = seconds_of(world_, [&] { s->forward(kernels_, shape_); });
            const Sample backward = seconds_of(world_, [&] { s->backward(kernels_, shape_); });
            if (record) {
                s->forward_seconds.push_back(forward);
                s->backward_seconds.push_back(backward);
            }
        }
    }
    [[nodiscard]] std::vector<std::span<const double>> samples() const override {
        std::vector<std::span<const double>> all;
        for (const auto& s : sequences_) {
            all.emplace_back(s->forward_seconds.slowest);
            all.emplace_back(s->backward_seconds.slowest);
        }
        return all;
    }
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    mpi::Communicator world_;
    const kernels::KernelSet& kernels_;
    ops::AttentionShape shape_;
    std::vector<std::unique_ptr<Sequence>> sequences_;
};

void AttentionBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    console.say(
        fmt::format("attention BF16, {} heads of {}, {} of keys and values{}, threads {}, kernel {}\n"
                    "{:>8} {:>12} {:>10} {:>8} {:>12} {:>10} {:>8} {:>12}\n",
                    shape_.heads, shape_.head_size, shape_.kv_heads,
                    shape_.window > 0 ? fmt::format(", window {}", shape_.window) : "", console.result().threads,
                    kernels_.gemm_name<bf16>(), "tokens", "forward ms", "GFLOP/s", "of peak", "backward ms", "GFLOP/s",
                    "of peak", "us per token"));
    for (const auto& s : sequences_) {
        const index_t length = s->offsets.back();
        std::string row = fmt::format("{:>8}", length);
        double seconds = 0;
        const auto add = [&](const char* name, const Samples& samples, double operations) {
            const double median = measure::summarize(samples.slowest).median;
            const double of_peak = 100 * operations / median / limits.peak_flops;
            console.add(measure::figures::of_rows(name, length), "ms", measure::Better::lower, samples.scaled(1e3),
                        of_peak);
            row += fmt::format(" {:>12.2f} {:>10.1f} {:>7.1f}%", 1e3 * median, 1e-9 * operations / median, of_peak);
            seconds += median;
        };
        add("attention_forward", s->forward_seconds, s->operations(shape_));
        add("attention_backward", s->backward_seconds, 2.5 * s->operations(shape_));
        console.say(row + fmt::format(" {:>12.2f}\n", 1e6 * seconds / static_cast<double>(length)));
    }
    console.say("\n");
}

std::unique_ptr<Benchmark> AttentionBenchmarkSettings::prepare(const train::Runtime& runtime, Console& console) const {
    return std::make_unique<AttentionBenchmark>(runtime, console, *this);
}

}  // namespace

std::unique_ptr<BenchmarkSettings> make_attention_settings() {
    return std::make_unique<AttentionBenchmarkSettings>();
}

}  // namespace moesaic::bench
