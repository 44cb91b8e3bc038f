// moesaic bench kernels: single matrix products in BF16.
#include "bench/benchmark.hpp"
#include "bench/onednn.hpp"
#include "bench/product_check.hpp"
#include "bench/shapes.hpp"
#include "core/error.hpp"
#include "core/random_fill.hpp"
#include "core/units.hpp"
#include "host/caches.hpp"
#include "model/weights/synthetic.hpp"
#include "ops/frozen_product.hpp"

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

using core::bf16;
using core::Matrix;
using core::MatrixView;
using kernels::Gemm;
using kernels::product;
using ops::PackedWeights;

constexpr double seconds_per_measurement = 0.01;
constexpr auto bf16_bytes = static_cast<index_t>(sizeof(bf16));

using View = MatrixView<const bf16>;

class KernelBenchmarkSettings final : public BenchmarkSettings {
public:
    void declare(core::OptionSet& set) override {
        set.add("m", rows_, "rows M of the activations, separated by commas");
        set.add(
            "shape", shape_,
            fmt::format("weights of the gate projection of a model: {}", fmt::join(model::synthetic_names(), ", ")));
        set.add("n", n_, "rows N of the weights; 0: those of the shape, or 2048", core::at_least(0));
        set.add("k", k_, "columns K of the weights; 0: those of the shape, or 2048", core::at_least(0));
        set.add("cold", cold_, "take copies of the weights in turn, so that they come from memory and not from caches");
    }
    void check(index_t) const override {
        static_cast<void>(shape());
        static_cast<void>(rows());
    }
    [[nodiscard]] std::unique_ptr<Benchmark> prepare(const train::Runtime& runtime, Console& console) const override;

    [[nodiscard]] std::vector<index_t> rows() const { return parse_sizes("m", rows_); }
    [[nodiscard]] index_t n() const { return n_ > 0 ? n_ : shape().intermediate; }
    [[nodiscard]] index_t k() const { return k_ > 0 ? k_ : shape().hidden; }
    /// Weights come from memory, else from the caches as far as they fit.
    [[nodiscard]] bool cold() const { return cold_; }

private:
    [[nodiscard]] LayerShape shape() const {
        return shape_.empty() ? LayerShape{"", 2048, 2048, 1, 1} : layer_shape(shape_);
    }

    std::string rows_ = "1,4,16,64,128,256,1024";
    std::string shape_;
    index_t n_ = 0;
    index_t k_ = 0;
    bool cold_ = false;
};

/// Something to measure: `run` computes one product with a copy of the weights.
struct Contender {
    std::string quantity;
    std::function<void(std::size_t copy)> run;
    Gemm<bf16> result;  ///< what the product is with copy 0
    bool is_forward;    ///< x W^T, which both libraries compute and the roofline shows
    index_t repeats = 1;
    Samples seconds{};  ///< per product

    /// Operands of BF16 and a result of FP32, each moved once.
    [[nodiscard]] measure::Work work() const {
        const auto m = static_cast<double>(result.m);
        const auto n = static_cast<double>(result.n);
        const auto k = static_cast<double>(result.k);
        return {2 * m * n * k, sizeof(bf16) * (m * k + n * k) + sizeof(float) * m * n};
    }
};

/// How much faster the first is, from pairs that were measured one right after the other.
std::vector<double> paired_ratios(const std::vector<double>& first, const std::vector<double>& second) {
    std::vector<double> ratios(first.size());
    std::transform(second.begin(), second.end(), first.begin(), ratios.begin(), std::divides<>());
    return ratios;
}

/// Copies of W [out, in] to take in turn: as rows, which oneDNN packs and checks read, and as models store them.
struct Weights {
    std::vector<Matrix<bf16>> plain;
    std::vector<PackedWeights> frozen;

    Weights(const train::Runtime& runtime, const KernelBenchmarkSettings& settings) {
        const index_t n = settings.n();
        const index_t k = settings.k();
        const index_t copies = settings.cold() ? cold_copies(runtime, n * k * bf16_bytes) : 1;
        constexpr index_t layouts = 3;  // rows, blocks, and what oneDNN makes of them
        const index_t bytes = layouts * copies * n * k * bf16_bytes;
        core::require(
            bytes <= runtime.memory_bytes(), core::ExitCode::out_of_resources,
            "{} copies of the weights need {:.1f} GiB ({:.1f} GiB are available to a rank); use smaller n and "
            "k, or fewer ranks",
            copies, static_cast<double>(bytes) / core::gibibyte,
            static_cast<double>(runtime.memory_bytes()) / core::gibibyte);
        for (index_t copy = 0; copy < copies; ++copy) {
            Matrix<bf16>& rows = plain.emplace_back(n, k);
            core::fill_random<bf16>(rows, 2, static_cast<std::uint64_t>(copy), 1);
            frozen.emplace_back(ops::WeightFormat::bf16, n, k).matrix().assign_rows<bf16>(0, rows);
        }
    }

    /// Twice what the last-level cache holds, but for tiny ones.
    static index_t cold_copies(const train::Runtime& runtime, index_t bytes) {
        constexpr index_t most = 1024;
        const index_t cache_bytes = host::last_level_cache_bytes(runtime.placement.processing_units);
        return std::min(2 * cache_bytes / bytes + 2, most);
    }
};

/// All products of one M: x [M, in], dy [M, out], and the results.
struct Products {
    Products(index_t m, const Weights& weights_in, const kernels::KernelSet& kernels) : rows(m), weights(weights_in) {
        const index_t n = weights.plain.front().rows();
        const index_t k = weights.plain.front().cols();
        x.resize(m, k);
        dy.resize(m, n);
        y.resize(m, n);
        y_onednn.resize(m, n);
        dx.resize(m, k);
        dw.resize(n, k);
        core::fill_random<bf16>(x, 1, 0, 1);
        core::fill_random<bf16>(dy, 1, 1, 1);
        onednn = make_onednn_product(x, weights.plain, y_onednn);
        add_contenders(kernels);
    }
    Products(const Products&) = delete;  // contenders refer to the other members
    Products& operator=(const Products&) = delete;

    void add_contenders(const kernels::KernelSet& kernels) {
        const auto multiply = [this, &kernels](const PackedWeights& w, ops::Direction direction, View in,
                                               MatrixView<float> out) {
            const ops::FrozenProduct<bf16> product = {w, direction, in, out, false, {}};
            ops::multiply<bf16>(kernels, {&product, 1}, scratch);
        };
        const Gemm<bf16> forward = product(View(x), false, View(weights.plain[0]), true, y.view());
        const Gemm<bf16> backward = product(View(dy), false, View(weights.plain[0]), false, dx.view());
        const Gemm<bf16> contraction = product(View(dy), true, View(x), false, dw.view());
        contenders = {
            {"gemm", [=, this](std::size_t copy) { multiply(weights.frozen[copy], ops::Direction::forward, x, y); },
             forward, true},
            {"gemm_backward",
             [=, this](std::size_t copy) { multiply(weights.frozen[copy], ops::Direction::backward, dy, dx); },
             backward, false},
            {"gemm_contraction", [=, &kernels](std::size_t) { kernels.run(contraction); }, contraction, false}};
        if (onednn != nullptr) {
            Gemm<bf16> result = forward;
            result.c = y_onednn.data();
            contenders.push_back({"onednn", [this](std::size_t copy) { onednn->run(copy); }, result, true});
        }
    }

    index_t rows;
    const Weights& weights;
    Matrix<bf16> x;
    Matrix<bf16> dy;
    Matrix<float> y;
    Matrix<float> y_onednn;
    Matrix<float> dx;
    Matrix<float> dw;
    ops::FrozenScratch<bf16> scratch;
    std::unique_ptr<OneDnnProduct> onednn;
    std::vector<Contender> contenders;
};

/// x W^T (forward), dy W (backward) and dy^T x (contraction over tokens), and oneDNN's x W^T with packed weights beside
/// them.
class KernelBenchmark final : public Benchmark {
public:
    /// Collective. Computes everything once and checks it.
    KernelBenchmark(const train::Runtime& runtime, Console& console, const KernelBenchmarkSettings& settings);

    void repeat(bool record) override;
    [[nodiscard]] std::vector<std::span<const double>> samples() const override;
    void report(Console& console, const measure::MachineLimits& limits) const override;

private:
    mpi::Communicator world_;
    const kernels::KernelSet& kernels_;
    bool cold_;
    std::unique_ptr<Weights> weights_;
    std::vector<std::unique_ptr<Products>> products_;  ///< of every M
    std::size_t next_copy_ = 0;                        ///< of the weights
};

KernelBenchmark::KernelBenchmark(const train::Runtime& runtime, Console& console,
                                 const KernelBenchmarkSettings& settings)
    : world_(runtime.world), kernels_(runtime.kernels), cold_(settings.cold()) {
    world_.agree([&] {
        weights_ = std::make_unique<Weights>(runtime, settings);
        for (const index_t m : settings.rows()) {
            products_.push_back(std::make_unique<Products>(m, *weights_, kernels_));
        }
    });
    for (const auto& products : products_) {
        for (Contender& contender : products->contenders) {
            contender.run(0);
            console.add_check("error_" + measure::figures::of_rows(contender.quantity, products->rows).name,
                              product_error(contender.result), product_error_bound);
            contender.repeats = repeats_for(world_, seconds_per_measurement, [&] { contender.run(0); });
        }
    }
}

/// Takes the contenders in turn, so that what disturbs the machine for a while disturbs them alike.
void KernelBenchmark::repeat(bool record) {
    const std::size_t copies = weights_->plain.size();
    for (const auto& products : products_) {
        for (Contender& contender : products->contenders) {
            const auto run_once = [&] { contender.run(next_copy_++ % copies); };
            run_once();  // the other contenders had the caches
            const Sample seconds = seconds_of(world_, [&] {
                for (index_t j = 0; j < contender.repeats; ++j) {
                    run_once();
                }
            });
            if (record) {
                contender.seconds.push_back(seconds * (1 / static_cast<double>(contender.repeats)));
            }
        }
    }
}

std::vector<std::span<const double>> KernelBenchmark::samples() const {
    std::vector<std::span<const double>> all;
    for (const auto& products : products_) {
        for (const Contender& contender : products->contenders) {
            all.emplace_back(contender.seconds.slowest);
        }
    }
    return all;
}

void KernelBenchmark::report(Console& console, const measure::MachineLimits& limits) const {
    const std::size_t copies = weights_->plain.size();
    const index_t n = weights_->plain.front().rows();
    const index_t k = weights_->plain.front().cols();
    console.say(fmt::format(
        "GEMM BF16, N {}, K {}, threads {}, kernel {}, {} beside it; weights {}, {} cop{} of {:.1f} MiB\n"
        "GFLOP/s, median +- half of its 95 % interval; percent of the peak for x W^T\n"
        "{:>6} {:>18} {:>6} {:>18} {:>18} {:>18} {:>8}\n",
        n, k, console.result().threads, kernels_.gemm_name<bf16>(), onednn_version(), cold_ ? "cold" : "hot", copies,
        copies == 1 ? "y" : "ies", static_cast<double>(n * k * bf16_bytes) / core::mebibyte, "M", "x W^T", "peak",
        "dy W", "dy^T x", "oneDNN x W^T", "ratio"));
    for (const auto& products : products_) {
        const index_t m = products->rows;
        const auto& contenders = products->contenders;
        const double gigaflops = 2e-9 * static_cast<double>(m) * static_cast<double>(n * k);
        std::string row = fmt::format("{:>6}", m);
        for (const Contender& contender : contenders) {
            const Samples speed = contender.seconds.rates(gigaflops);
            const measure::Summary summary = measure::summarize(speed.slowest);
            const double of_peak = 100e9 * summary.median / limits.peak_flops;
            const bool own = contender.quantity != "onednn";
            console.add(measure::figures::of_rows(contender.quantity, m), "GFLOP/s",
                        own ? measure::Better::higher : measure::Better::neither, speed, of_peak,
                        contender.is_forward ? std::optional(contender.work()) : std::nullopt);
            row += fmt::format(" {:>9.1f} +- {:4.1f}%", summary.median, summary.spread_percent());
            if (&contender == &contenders.front()) {
                row += fmt::format(" {:>6}", percent_of_limit(of_peak));
            }
        }
        if (products->onednn != nullptr) {
            const auto ratios = paired_ratios(contenders.front().seconds.slowest, contenders.back().seconds.slowest);
            console.add(measure::figures::of_rows("gemm_over_onednn", m), "x", measure::Better::neither, ratios);
            row += fmt::format(" {:>7.2f}x  {}", measure::summarize(ratios).median, products->onednn->implementation());
        }
        console.say(row + "\n");
    }
    console.say("\n");
}

std::unique_ptr<Benchmark> KernelBenchmarkSettings::prepare(const train::Runtime& runtime, Console& console) const {
    return std::make_unique<KernelBenchmark>(runtime, console, *this);
}

}  // namespace

std::unique_ptr<BenchmarkSettings> make_kernels_settings() {
    return std::make_unique<KernelBenchmarkSettings>();
}

}  // namespace moesaic::bench
