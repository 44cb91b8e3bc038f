#include "bench/kernel_benchmark.hpp"

#include "bench/machine_report.hpp"
#include "bench/onednn.hpp"
#include "bench/product_check.hpp"
#include "bench/timing.hpp"
#include "core/error.hpp"
#include "core/random_fill.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <functional>

namespace moesaic::bench {
namespace {

using core::bf16;
using core::Matrix;
using core::MatrixView;
using kernels::Gemm;
using kernels::product;

constexpr double seconds_per_measurement = 0.01;
constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// Operands of all products of one M: x [M, K], dy [M, N], copies of W [N, K], and the results.
struct Operands {
    Operands(index_t m, const std::vector<Matrix<bf16>>& weights_in) : weights(weights_in) {
        const index_t n = weights.front().rows();
        const index_t k = weights.front().cols();
        x.resize(m, k);
        dy.resize(m, n);
        y.resize(m, n);
        y_onednn.resize(m, n);
        dx.resize(m, k);
        dw.resize(n, k);
        core::fill_random<bf16>(x, 1, 0, 1);
        core::fill_random<bf16>(dy, 1, 1, 1);
    }
    const std::vector<Matrix<bf16>>& weights;
    Matrix<bf16> x;
    Matrix<bf16> dy;
    Matrix<float> y;
    Matrix<float> y_onednn;
    Matrix<float> dx;
    Matrix<float> dw;
};

using View = MatrixView<const bf16>;

Gemm<bf16> forward(Operands& o, std::size_t copy) {
    return product(View(o.x), false, View(o.weights[copy]), true, o.y.view());
}
Gemm<bf16> backward(Operands& o, std::size_t copy) {
    return product(View(o.dy), false, View(o.weights[copy]), false, o.dx.view());
}
Gemm<bf16> contraction(Operands& o, std::size_t) {
    return product(View(o.dy), true, View(o.x), false, o.dw.view());
}

/// The products of the project's kernels: names of the figures, and what is multiplied.
struct Direction {
    const char* figure;
    Gemm<bf16> (*of)(Operands& operands, std::size_t copy);
};
constexpr std::array directions = {Direction{"gemm", forward}, Direction{"gemm_backward", backward},
                                   Direction{"gemm_contraction", contraction}};

/// Something to measure: `run` computes one product with a copy of the weights.
struct Contender {
    std::string figure;
    std::function<void(std::size_t copy)> run;
    Gemm<bf16> result;  ///< with copy 0, to check
    index_t repeats = 1;
    std::vector<double> seconds{};  ///< per product
};

std::vector<Contender> contenders_for(Operands& operands, const kernels::KernelSet& kernels, OneDnnProduct* onednn) {
    std::vector<Contender> contenders;
    for (const Direction& direction : directions) {
        contenders.push_back(
            {direction.figure,
             [&operands, &kernels, direction](std::size_t copy) { kernels.run(direction.of(operands, copy)); },
             direction.of(operands, 0)});
    }
    if (onednn != nullptr) {
        Gemm<bf16> result = forward(operands, 0);
        result.c = operands.y_onednn.data();
        contenders.push_back({"onednn", [onednn](std::size_t copy) { onednn->run(copy); }, result});
    }
    return contenders;
}

/// Weights to take in turn. Cold ones are twice what the last-level cache holds, but for tiny ones.
std::vector<Matrix<bf16>> make_weights(const Report& report, const KernelSettings& settings) {
    const index_t bytes = settings.n * settings.k * static_cast<index_t>(sizeof(bf16));
    constexpr index_t most = 1024;
    const index_t copies = settings.cold ? std::min(2 * last_level_cache_bytes() / bytes + 2, most) : 1;
    std::vector<Matrix<bf16>> weights(static_cast<std::size_t>(copies));
    report.world().agree([&] {
        constexpr index_t users = 2;  // these kernels and oneDNN
        core::require(
            users * copies * bytes <= settings.memory_bytes, core::ExitCode::out_of_resources,
            "{} copies of the weights need {:.1f} GiB ({:.1f} GiB are available to a rank); use smaller n and "
            "k, or fewer ranks",
            copies, static_cast<double>(users * copies * bytes) / gib,
            static_cast<double>(settings.memory_bytes) / gib);
        for (std::size_t copy = 0; copy < weights.size(); ++copy) {
            weights[copy].resize(settings.n, settings.k);
            core::fill_random<bf16>(weights[copy], 2, copy, 1);
        }
    });
    return weights;
}

void check(const Report& report, std::vector<Contender>& contenders) {
    report.world().agree([&] {
        for (Contender& contender : contenders) {
            contender.run(0);
            require_correct(contender.result, contender.figure);
        }
    });
}

/// Takes the contenders in turn, so that what disturbs the machine for a while disturbs them alike.
void measure(const Report& report, std::vector<Contender>& contenders, std::size_t copies, index_t repeat) {
    std::size_t next = 0;
    const auto run_once = [&](Contender& contender) { contender.run(next++ % copies); };
    for (Contender& contender : contenders) {
        contender.repeats = repeats_for(report.world(), seconds_per_measurement, [&] { run_once(contender); });
    }
    for (index_t i = 0; i < repeat; ++i) {
        for (Contender& contender : contenders) {
            const double seconds = seconds_of_slowest(report.world(), [&] {
                for (index_t j = 0; j < contender.repeats; ++j) {
                    run_once(contender);
                }
            });
            contender.seconds.push_back(seconds / static_cast<double>(contender.repeats));
        }
    }
}

/// How much faster the first is, from pairs that were measured one right after the other.
Summary paired_ratio(const std::vector<double>& first, const std::vector<double>& second) {
    std::vector<double> ratios(first.size());
    std::transform(second.begin(), second.end(), first.begin(), ratios.begin(), std::divides<>());
    return summarize(std::move(ratios));
}

}  // namespace

void run_kernel_benchmark(Report& report, const kernels::KernelSet& kernels, const KernelSettings& settings) {
    const MachineLimits machine = report_machine(report, kernels, settings.memory_bytes);
    const auto weights = make_weights(report, settings);
    report.say(
        fmt::format("GEMM BF16, N {}, K {}, threads {}, kernel {}, {} beside it; weights {}, {} cop{} of {:.1f} MiB\n"
                    "GFLOP/s, median +- half of its 95 % interval; percent of the peak for x W^T\n"
                    "{:>6} {:>18} {:>6} {:>18} {:>18} {:>18} {:>8}\n",
                    settings.n, settings.k, omp_get_max_threads(), kernels.gemm_name<bf16>(), onednn_version(),
                    settings.cold ? "cold" : "hot", weights.size(), weights.size() == 1 ? "y" : "ies",
                    static_cast<double>(settings.n * settings.k * 2) / (1 << 20), "M", "x W^T", "peak", "dy W",
                    "dy^T x", "oneDNN x W^T", "ratio"));
    for (const index_t m : settings.rows) {
        Operands operands(m, weights);
        const auto onednn = make_onednn_product(operands.x, weights, operands.y_onednn);
        std::vector<Contender> contenders = contenders_for(operands, kernels, onednn.get());
        check(report, contenders);
        measure(report, contenders, weights.size(), settings.repeat);

        const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(settings.n * settings.k);
        std::string row = fmt::format("{:>6}", m);
        for (const Contender& contender : contenders) {
            const Summary gflops = rate(operations * 1e-9, summarize(contender.seconds));
            report.add(fmt::format("{}_M{}", contender.figure, m), "GFLOP/s", gflops);
            row += fmt::format(" {:>9.1f} +- {:4.1f}%", gflops.median, gflops.spread_percent());
            if (&contender == &contenders.front()) {
                row += fmt::format(" {:5.1f}%", 100e9 * gflops.median / machine.peak_flops);
            }
        }
        if (onednn != nullptr) {
            const Summary ratio = paired_ratio(contenders.front().seconds, contenders.back().seconds);
            report.add(fmt::format("gemm_over_onednn_M{}", m), "x", ratio);
            row += fmt::format(" {:>7.2f}x  {}", ratio.median, onednn->implementation());
        }
        report.say(row + "\n");
    }
    report.say("\n");
}

}  // namespace moesaic::bench
