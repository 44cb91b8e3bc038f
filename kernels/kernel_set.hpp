// The one matrix product contract of the project, and the list of its implementations.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/isa.hpp"
#include "kernels/micro_kernel.hpp"

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moesaic::kernels {

using core::accumulator_t;
using core::index_t;

/// Type of the elements that micro-kernels see: BF16 as its 16 bits.
template <class T>
using stored_t = std::conditional_t<std::is_same_v<T, core::bf16>, std::uint16_t, T>;

template <class T>
using micro_kernel_t = MicroKernel<stored_t<T>, accumulator_t<T>>;

/// C[m, n] = alpha * op(A)[m, k] * op(B)[k, n], added to C if `accumulate`. op(X) = X or its transpose; storage is
/// row-major with leading dimensions in elements. Products of BF16 are summed in FP32. Any of m, n, k may be zero; with
/// k = 0 the product is zero. C overlaps neither A nor B.
template <class T>
struct Gemm {
    index_t m = 0;
    index_t n = 0;
    index_t k = 0;
    const T* a = nullptr;  ///< [m, k], or [k, m] if transpose_a
    index_t lda = 0;
    bool transpose_a = false;
    const T* b = nullptr;  ///< [k, n], or [n, k] if transpose_b
    index_t ldb = 0;
    bool transpose_b = false;
    accumulator_t<T>* c = nullptr;  ///< [m, n]
    index_t ldc = 0;
    accumulator_t<T> alpha = 1;
    bool accumulate = false;
};

/// The product of views: sizes come from C and A, whose shapes op(A) [m, k] and op(B) [k, n] must fit.
template <class T>
[[nodiscard]] Gemm<T> product(core::MatrixView<const T> a, bool transpose_a, core::MatrixView<const T> b,
                              bool transpose_b, core::MatrixView<accumulator_t<T>> c, accumulator_t<T> alpha = 1,
                              bool accumulate = false) {
    return {.m = c.rows(),
            .n = c.cols(),
            .k = transpose_a ? a.rows() : a.cols(),
            .a = a.data(),
            .lda = a.stride(),
            .transpose_a = transpose_a,
            .b = b.data(),
            .ldb = b.stride(),
            .transpose_b = transpose_b,
            .c = c.data(),
            .ldc = c.stride(),
            .alpha = alpha,
            .accumulate = accumulate};
}

/// One implementation: computes one product on the calling thread. The table below is the only place that lists them;
/// dispatch, tests and benchmarks are generated from it.
template <class T>
struct GemmKernel {
    std::string_view name;
    Isa isa;
    const micro_kernel_t<T>* micro_kernel;
    void (*run)(const Gemm<T>&);
};

/// All implementations for T (bf16, float, double), slowest level first; the first one is the portable reference.
template <class T>
[[nodiscard]] std::span<const GemmKernel<T>> gemm_kernels();
template <>
std::span<const GemmKernel<core::bf16>> gemm_kernels();
template <>
std::span<const GemmKernel<float>> gemm_kernels();
template <>
std::span<const GemmKernel<double>> gemm_kernels();

/// The kernels chosen for this process. Immutable, shared by all threads.
class KernelSet {
public:
    /// `level` is "auto", "portable", "avx2", "avx512" or "amx" (the avx512 level uses BF16 instructions where
    /// `bf16_pairs_are_faster`). Throws a usage error if the machine can't run the level.
    explicit KernelSet(std::string_view level = "auto");
    /// `kernel` for BF16, whether or not this machine runs it, and what suits its level beside it: for tests and
    /// measurements of one implementation.
    explicit KernelSet(const GemmKernel<core::bf16>& kernel);

    /// Computes independent products on the thread team: every product is split into blocks, largest first, so that
    /// many small products and one large one both use all threads. Results do not depend on the number of threads. Call
    /// it from serial code.
    template <class T>
    void run(std::span<const Gemm<T>> batch) const;
    template <class T>
    void run(const Gemm<T>& product) const {
        run(std::span<const Gemm<T>>(&product, 1));
    }

    /// Computes one product on the calling thread, for callers that are parallel themselves.
    template <class T>
    void run_on_calling_thread(const Gemm<T>& product) const;

    /// The micro-kernel below `run`, for code that blocks and packs by itself.
    template <class T>
    [[nodiscard]] const micro_kernel_t<T>& micro_kernel() const;

    /// Name of the implementation that serves T.
    template <class T>
    [[nodiscard]] std::string_view gemm_name() const;

    /// Operations on rows of elements, of the same level.
    template <class T>
    [[nodiscard]] const ElementwiseKernels<T>& elementwise() const;

private:
    GemmKernel<core::bf16> bf16_;
    GemmKernel<float> float_;
    GemmKernel<double> double_;
    const ElementwiseKernels<core::bf16>* elementwise_bf16_;
    const ElementwiseKernels<float>* elementwise_float_;
    const ElementwiseKernels<double>* elementwise_double_;
};

}  // namespace moesaic::kernels
