#include "bench/kernel_benchmark.hpp"

#include "bench/machine_report.hpp"
#include "bench/onednn.hpp"
#include "bench/product_check.hpp"
#include "bench/timing.hpp"
#include "core/error.hpp"
#include "core/random_fill.hpp"
#include "model/frozen_matrix.hpp"

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
using model::FrozenMatrix;

constexpr double seconds_per_measurement = 0.01;
constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// Copies of W [N, K] to take in turn: as rows, which oneDNN packs and checks read, and as models store them.
struct Weights {
    std::vector<Matrix<bf16>> plain;
    std::vector<FrozenMatrix<bf16>> frozen;
};

/// Operands of all products of one M: x [M, K], dy [M, N], and the results.
struct Operands {
    Operands(index_t m, const Weights& weights_in) : weights(weights_in) {
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
    }
    const Weights& weights;
    Matrix<bf16> x;
    Matrix<bf16> dy;
    Matrix<float> y;
    Matrix<float> y_onednn;
    Matrix<float> dx;
    Matrix<float> dw;
    model::FrozenScratch<bf16> scratch;
};

using View = MatrixView<const bf16>;

/// What a product is, for its check: with copy 0 of the weights.
Gemm<bf16> forward(Operands& o) {
    return product(View(o.x), false, View(o.weights.plain[0]), true, o.y.view());
}
Gemm<bf16> backward(Operands& o) {
    return product(View(o.dy), false, View(o.weights.plain[0]), false, o.dx.view());
}
Gemm<bf16> contraction(Operands& o) {
    return product(View(o.dy), true, View(o.x), false, o.dw.view());
}

/// Something to measure: `run` computes one product with a copy of the weights.
struct Contender {
    std::string figure;
    std::function<void(std::size_t copy)> run;
    Gemm<bf16> result;
    index_t repeats = 1;
    std::vector<double> seconds{};  ///< per product
};

std::vector<Contender> contenders_for(Operands& operands, const kernels::KernelSet& kernels, OneDnnProduct* onednn) {
    const auto multiply = [&](model::FrozenProduct<bf16> product) {
        model::multiply<bf16>(kernels, {&product, 1}, operands.scratch);
    };
    const auto& frozen = operands.weights.frozen;
    std::vector<Contender> contenders = {
        {"gemm",
         [=, &operands, &frozen](std::size_t copy) {
             multiply({frozen[copy], model::Direction::forward, operands.x, operands.y, false, {}});
         },
         forward(operands)},
        {"gemm_backward",
         [=, &operands, &frozen](std::size_t copy) {
             multiply({frozen[copy], model::Direction::backward, operands.dy, operands.dx, false, {}});
         },
         backward(operands)},
        {"gemm_contraction", [&](std::size_t) { kernels.run(contraction(operands)); }, contraction(operands)}};
    if (onednn != nullptr) {
        Gemm<bf16> result = forward(operands);
        result.c = operands.y_onednn.data();
        contenders.push_back({"onednn", [onednn](std::size_t copy) { onednn->run(copy); }, result});
    }
    return contenders;
}

/// Weights to take in turn. Cold ones are twice what the last-level cache holds, but for tiny ones.
Weights make_weights(const Report& report, const KernelSettings& settings) {
    const index_t bytes = settings.n * settings.k * static_cast<index_t>(sizeof(bf16));
    constexpr index_t most = 1024;
    const index_t copies = settings.cold ? std::min(2 * last_level_cache_bytes() / bytes + 2, most) : 1;
    Weights weights;
    report.world().agree([&] {
        constexpr index_t layouts = 3;  // rows, blocks, and what oneDNN makes of them
        core::require(
            layouts * copies * bytes <= settings.memory_bytes, core::ExitCode::out_of_resources,
            "{} copies of the weights need {:.1f} GiB ({:.1f} GiB are available to a rank); use smaller n and "
            "k, or fewer ranks",
            copies, static_cast<double>(layouts * copies * bytes) / gib,
            static_cast<double>(settings.memory_bytes) / gib);
        for (index_t copy = 0; copy < copies; ++copy) {
            Matrix<bf16>& plain = weights.plain.emplace_back(settings.n, settings.k);
            core::fill_random<bf16>(plain, 2, static_cast<std::uint64_t>(copy), 1);
            weights.frozen.emplace_back(settings.n, settings.k).assign(plain);
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
    const Weights weights = make_weights(report, settings);
    const std::size_t copies = weights.plain.size();
    report.say(
        fmt::format("GEMM BF16, N {}, K {}, threads {}, kernel {}, {} beside it; weights {}, {} cop{} of {:.1f} MiB\n"
                    "GFLOP/s, median +- half of its 95 % interval; percent of the peak for x W^T\n"
                    "{:>6} {:>18} {:>6} {:>18} {:>18} {:>18} {:>8}\n",
                    settings.n, settings.k, omp_get_max_threads(), kernels.gemm_name<bf16>(), onednn_version(),
                    settings.cold ? "cold" : "hot", copies, copies == 1 ? "y" : "ies",
                    static_cast<double>(settings.n * settings.k * 2) / (1 << 20), "M", "x W^T", "peak", "dy W",
                    "dy^T x", "oneDNN x W^T", "ratio"));
    for (const index_t m : settings.rows) {
        Operands operands(m, weights);
        const auto onednn = make_onednn_product(operands.x, weights.plain, operands.y_onednn);
        std::vector<Contender> contenders = contenders_for(operands, kernels, onednn.get());
        check(report, contenders);
        measure(report, contenders, copies, settings.repeat);

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
