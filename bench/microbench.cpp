// moesaic_microbench: every kernel of the project by itself, on one thread, under Google Benchmark. Under valgrind's
// callgrind it counts instructions instead: tests/costs.
#include "core/random_fill.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/kernel_set.hpp"

#include <benchmark/benchmark.h>
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name)
#endif

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moesaic::bench {
namespace {

using core::index_t;
using core::Matrix;
using kernels::accumulator_t;

template <class Scalar>
const char* type_name() {
    return std::is_same_v<Scalar, core::bf16>      ? "bf16"
           : std::is_same_v<Scalar, float>         ? "float"
           : std::is_same_v<Scalar, kernels::int8> ? "int8"
                                                   : "double";
}

template <class Scalar>
Matrix<Scalar> random_matrix(index_t rows, index_t cols) {
    Matrix<float> values(rows, cols);
    core::fill_random<float>(values, 1, 0, std::is_integral_v<Scalar> ? 20 : 1);
    Matrix<Scalar> matrix(rows, cols);
    for (std::size_t i = 0; i < matrix.size(); ++i) {
        matrix.data()[i] = static_cast<Scalar>(values.data()[i]);
    }
    return matrix;
}

/// Repeats `work`. Callgrind writes the instructions of each time under the name; otherwise that costs nothing.
template <class Work>
void repeat(benchmark::State& state, const std::string& name, const Work& work) {
    for ([[maybe_unused]] auto iteration : state) {
        CALLGRIND_ZERO_STATS;
        work();
        CALLGRIND_DUMP_STATS_AT(name.c_str());
        benchmark::ClobberMemory();
    }
}

/// C = A B^T with B of 512 x 512, which fits into the second-level cache.
template <class Scalar>
void run_product(benchmark::State& state, const std::string& name, const kernels::GemmKernel<Scalar>& kernel) {
    constexpr index_t n = 512;
    constexpr index_t k = 512;
    const index_t m = state.range(0);
    const Matrix<Scalar> a = random_matrix<Scalar>(m, k);
    const Matrix<Scalar> b = random_matrix<Scalar>(n, k);
    Matrix<accumulator_t<Scalar>> c(m, n);
    const auto product = kernels::product(a.view(), false, b.view(), true, c.view());
    repeat(state, name + "/M:" + std::to_string(m), [&] { kernel.run(product); });
    state.counters["FLOP/s"] =
        benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}

/// Rows that elementwise operations work on: 64 of 2048 elements, which fit into the second-level cache.
template <class Scalar>
struct Rows {
    using Sum = accumulator_t<Scalar>;
    static constexpr index_t rows = 64;
    static constexpr index_t n = 2048;
    static constexpr index_t all = rows * n;

    Matrix<Scalar> narrow = random_matrix<Scalar>(rows, n);
    Matrix<Scalar> narrow_out = random_matrix<Scalar>(rows, n);
    Matrix<Scalar> narrow_out2 = random_matrix<Scalar>(rows, n);
    Matrix<Scalar> narrow_out3 = random_matrix<Scalar>(rows, n);
    Matrix<Sum> x = random_matrix<Sum>(rows, n);
    Matrix<Sum> y = random_matrix<Sum>(rows, n);
    Matrix<Sum> z = random_matrix<Sum>(rows, n);
    Matrix<Sum> first_moment = random_matrix<Sum>(rows, n);
    Matrix<Sum> second_moment = Matrix<Sum>(rows, n);
    Matrix<Sum> ones = Matrix<Sum>(rows, n);
    std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(all);  // no NaN of E4M3
    std::vector<std::uint8_t> codes_out = std::vector<std::uint8_t>(all);
    std::vector<std::int32_t> integers = std::vector<std::int32_t>(all, 1000);

    Rows() {
        for (std::size_t i = 0; i < codes.size(); ++i) {
            codes[i] = static_cast<std::uint8_t>(37 * i % 127);
        }
        second_moment.fill(Sum(0));
        ones.fill(Sum(1));
    }
};

/// An operation once over all rows.
template <class Scalar>
struct Operation {
    std::string name;
    double bytes;  ///< read and written, per element
    std::function<void(const kernels::ElementwiseKernels<Scalar>&, Rows<Scalar>&)> run;
};

/// Decoding of weights in blocks of 32 x 32, in one order of them.
template <class Scalar>
std::vector<Operation<Scalar>> decoding(const std::string& suffix, kernels::WeightOrder order) {
    using R = Rows<Scalar>;
    using K = kernels::ElementwiseKernels<Scalar>;
    constexpr index_t rows = 32;
    constexpr index_t block = 32 * rows;
    constexpr double scale = sizeof(accumulator_t<Scalar>) / 32.0;
    const auto of_blocks = [](const auto& decode) {
        return [=](const K& k, R& r) {
            for (index_t i = 0; i < R::all; i += block) {
                decode(k, r, i, r.narrow_out.data() + i);
            }
        };
    };
    return {
        {"decode_nibbles" + suffix, 0.5 + scale + sizeof(Scalar),
         of_blocks([=](const K& k, R& r, index_t i, Scalar* out) {
             k.decode_nibbles(rows, r.codes.data() + i / 2, r.x.data(), 1, r.ones.data(), nullptr, order, out);
         })},
        {"decode_integers" + suffix, 1 + scale + sizeof(Scalar),
         of_blocks([=](const K& k, R& r, index_t i, Scalar* out) {
             k.decode_integers(rows, reinterpret_cast<const std::int8_t*>(r.codes.data()) + i, r.ones.data(), nullptr,
                               order, out);
         })},
        {"decode_e4m3" + suffix, 1 + scale + sizeof(Scalar), of_blocks([=](const K& k, R& r, index_t i, Scalar* out) {
             k.decode_e4m3(rows, r.codes.data() + i, r.ones.data(), order, out);
         })},
    };
}

/// All operations of ElementwiseTable.
template <class Scalar>
std::vector<Operation<Scalar>> operations() {
    using R = Rows<Scalar>;
    using K = kernels::ElementwiseKernels<Scalar>;
    using Sum = accumulator_t<Scalar>;
    constexpr double t = sizeof(Scalar);
    constexpr double a = sizeof(Sum);
    const Sum half = Sum(0.5);
    const auto keep = [](auto value) { benchmark::DoNotOptimize(value); };
    return {
        {"narrow", a + t, [](const K& k, R& r) { k.narrow(R::all, r.x.data(), r.narrow_out.data()); }},
        {"widen", a + t, [](const K& k, R& r) { k.widen(R::all, r.narrow.data(), r.z.data()); }},
        {"split", a + 2 * t,
         [](const K& k, R& r) { k.split(R::all, r.x.data(), r.narrow_out.data(), r.narrow_out2.data()); }},
        {"narrow_rows", a + t,
         [](const K& k, R& r) { k.narrow_rows(R::rows, R::n, r.x.data(), R::n, r.narrow_out.data(), R::n); }},
        {"transpose_narrow", a + t,
         [](const K& k, R& r) { k.transpose_narrow(R::rows, R::n, r.x.data(), R::n, r.narrow_out.data(), R::rows); }},
        {"transpose_widen", a + t,
         [](const K& k, R& r) { k.transpose_widen(R::rows, R::n, r.narrow.data(), R::n, r.z.data(), R::rows); }},
        {"add", 3 * a, [](const K& k, R& r) { k.add(R::all, r.x.data(), r.y.data(), r.z.data()); }},
        {"scale", 2 * a, [](const K& k, R& r) { k.scale(R::all, Sum(1), r.z.data()); }},
        {"scale_narrow", a + t,
         [=](const K& k, R& r) { k.scale_narrow(R::all, half, r.x.data(), r.narrow_out.data()); }},
        {"sum_rows", t + a / 8,
         [](const K& k, R& r) {
             for (index_t row = 0; row < R::rows; row += 8) {
                 std::array<const Scalar*, 8> rows{};
                 for (std::size_t i = 0; i < rows.size(); ++i) {
                     rows[i] = r.narrow.view()[row + static_cast<index_t>(i)];
                 }
                 k.sum_rows(R::n, 8, rows.data(), r.z.data());
             }
         }},
        {"dot", 2 * t, [=](const K& k, R& r) { keep(k.dot(R::all, r.narrow.data(), r.narrow_out.data())); }},
        {"sum_of_squares", a, [=](const K& k, R& r) { keep(k.sum_of_squares(R::all, r.x.data())); }},
        {"swiglu_forward", 2 * a + t,
         [](const K& k, R& r) { k.swiglu_forward(R::all, r.x.data(), r.y.data(), nullptr, r.narrow_out.data()); }},
        {"swiglu_backward", 3 * a + 3 * t,
         [=](const K& k, R& r) {
             keep(k.swiglu_backward(R::all, r.z.data(), r.x.data(), r.y.data(), half, r.narrow_out.data(),
                                    r.narrow_out2.data(), r.narrow_out3.data()));
         }},
        {"rms_norm_forward", a + t,
         [=](const K& k, R& r) {
             for (index_t row = 0; row < R::rows; ++row) {
                 keep(k.rms_norm_forward(R::n, r.x.view()[row], r.y.data(), Sum(1e-6), r.narrow_out.view()[row],
                                         nullptr));
             }
         }},
        {"rms_norm_backward", 3 * a,
         [=](const K& k, R& r) {
             for (index_t row = 0; row < R::rows; ++row) {
                 k.rms_norm_backward(R::n, r.y.view()[row], r.x.view()[row], r.y.data(), half, nullptr,
                                     r.z.view()[row]);
             }
         }},
        {"rotate", 2 * a,
         [](const K& k, R& r) {
             for (index_t row = 0; row < R::rows; ++row) {  // by no angle: the values stay
                 k.rotate(R::n / 2, r.ones.data(), r.second_moment.data(), Sum(1), r.z.view()[row]);
             }
         }},
        {"largest", a, [=](const K& k, R& r) { keep(k.largest(R::all, r.x.data())); }},
        {"exp", a + t,
         [=](const K& k, R& r) { keep(k.exp(R::all, r.x.data(), half, half, half, r.narrow_out.data())); }},
        {"exp_columns", a + t,
         [](const K& k, R& r) {
             for (index_t col = 0; col < R::n; col += 32) {  // what the loss does to a block of logits
                 k.exp_columns(R::rows, 32, r.x.data() + col, R::n, r.y.data(), r.narrow_out.data() + col * R::rows, 32,
                               r.z.data(), r.first_moment.data());
             }
         }},
        {"softmax_backward", 2 * a + 2 * t,
         [=](const K& k, R& r) {
             k.softmax_backward(R::all, r.x.data(), r.y.data(), half, half, half, r.narrow_out.data(),
                                r.narrow_out2.data());
         }},
        {"quantise", t + 1,
         [=](const K& k, R& r) {
             auto* codes = reinterpret_cast<std::int8_t*>(r.codes_out.data());
             for (index_t row = 0; row < R::rows; ++row) {
                 keep(k.quantise(R::n, r.narrow.view()[row], 32, nullptr, codes + row * R::n));
             }
         }},
        {"scale_integers", 4 + a,
         [](const K& k, R& r) {
             k.scale_integers(R::rows, R::n, r.integers.data(), R::n, r.ones.data(), r.x.data(), false, r.z.data(),
                              R::n);
         }},
        {"adamw", 7 * a,
         [](const K& k, R& r) {
             const kernels::AdamWFactors<Sum> factors{Sum(0.9), Sum(0.999), Sum(1), Sum(1e-3),
                                                      Sum(1),   Sum(1e-8),  Sum(1)};
             k.adamw(R::all, factors, r.x.data(), r.first_moment.data(), r.second_moment.data(), r.y.data(),
                     r.z.data());
         }},
    };
}

template <class Scalar>
void add_elementwise() {
    for (const kernels::ElementwiseImplementation<Scalar>& implementation : kernels::elementwise_kernels<Scalar>()) {
        if (!kernels::runs(implementation.isa)) {
            continue;
        }
        std::vector<Operation<Scalar>> all = operations<Scalar>();
        for (Operation<Scalar>& decode : decoding<Scalar>("", kernels::WeightOrder::rows)) {
            all.push_back(std::move(decode));
        }
        for (Operation<Scalar>& decode : decoding<Scalar>("_to_pairs", kernels::WeightOrder::pairs)) {
            all.push_back(std::move(decode));
        }
        for (const Operation<Scalar>& operation : all) {
            const std::string name =
                operation.name + "/" + type_name<Scalar>() + "/" + std::string(implementation.name);
            benchmark::RegisterBenchmark(name.c_str(), [&implementation, operation, name](benchmark::State& state) {
                Rows<Scalar> rows;
                repeat(state, name, [&] { operation.run(*implementation.kernels, rows); });
                state.SetItemsProcessed(state.iterations() * Rows<Scalar>::all);
                state.SetBytesProcessed(static_cast<std::int64_t>(static_cast<double>(state.iterations()) *
                                                                  static_cast<double>(Rows<Scalar>::all) *
                                                                  operation.bytes));
            });
        }
    }
}

template <class Scalar>
void add_products() {
    for (const kernels::GemmKernel<Scalar>& kernel : kernels::gemm_kernels<Scalar>()) {
        if (kernels::runs(kernel.isa)) {
            const std::string name = std::string("gemm/") + type_name<Scalar>() + "/" + std::string(kernel.name);
            benchmark::RegisterBenchmark(name.c_str(),
                                         [&kernel, name](benchmark::State& state) { run_product(state, name, kernel); })
                ->ArgName("M")
                ->Arg(1)
                ->Arg(16)
                ->Arg(128)
                ->Arg(1024);
        }
    }
}

}  // namespace
}  // namespace moesaic::bench

int main(int argc, char** argv) {
    const auto add = [](auto... scalars) {
        (moesaic::bench::add_elementwise<decltype(scalars)>(), ...);
        (moesaic::bench::add_products<decltype(scalars)>(), ...);
    };
    add(moesaic::core::bf16(), float(), double());
    moesaic::bench::add_products<moesaic::kernels::int8>();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 1;
    }
    benchmark::RunSpecifiedBenchmarks();
}
