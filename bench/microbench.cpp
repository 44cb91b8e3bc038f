// moesaic_microbench: every matrix product kernel of the project by itself, on one thread, under Google Benchmark.
#include "core/random_fill.hpp"
#include "kernels/gemm.hpp"

#include <benchmark/benchmark.h>

#include <string>
#include <type_traits>

namespace moesaic::bench {
namespace {

using core::index_t;
using core::Matrix;
using kernels::accumulator_t;

template <class T>
const char* type_name() {
    return std::is_same_v<T, core::bf16> ? "bf16" : std::is_same_v<T, float> ? "float" : "double";
}

template <class T>
Matrix<T> random_matrix(index_t rows, index_t cols) {
    Matrix<float> values(rows, cols);
    core::fill_random<float>(values, 1, 0, 1);
    Matrix<T> matrix(rows, cols);
    for (std::size_t i = 0; i < matrix.size(); ++i) {
        matrix.data()[i] = static_cast<T>(values.data()[i]);
    }
    return matrix;
}

/// C = A B^T with B of 512 x 512, which fits into the second-level cache.
template <class T>
void run(benchmark::State& state, const kernels::GemmKernel<T>& kernel) {
    constexpr index_t n = 512;
    constexpr index_t k = 512;
    const index_t m = state.range(0);
    const Matrix<T> a = random_matrix<T>(m, k);
    const Matrix<T> b = random_matrix<T>(n, k);
    Matrix<accumulator_t<T>> c(m, n);
    const auto product = kernels::product(a.view(), false, b.view(), true, c.view());
    for ([[maybe_unused]] auto iteration : state) {
        kernel.run(product);
        benchmark::ClobberMemory();
    }
    state.counters["FLOP/s"] =
        benchmark::Counter(2.0 * static_cast<double>(m * n * k), benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void add_all() {
    for (const kernels::GemmKernel<T>& kernel : kernels::gemm_kernels<T>()) {
        if (kernels::runs(kernel.isa)) {
            const std::string name = std::string("gemm/") + type_name<T>() + "/" + std::string(kernel.name);
            benchmark::RegisterBenchmark(name.c_str(), [&kernel](benchmark::State& state) { run(state, kernel); })
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
    moesaic::bench::add_all<moesaic::core::bf16>();
    moesaic::bench::add_all<float>();
    moesaic::bench::add_all<double>();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 1;
    }
    benchmark::RunSpecifiedBenchmarks();
}
