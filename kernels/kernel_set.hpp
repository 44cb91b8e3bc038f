// The contract of matrix products, and the kernels that compute them and all else.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/isa.hpp"
#include "kernels/micro_kernel.hpp"

#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>

namespace moesaic::kernels {

using core::accumulator_t;
using core::index_t;

/// C[m, n] = alpha * op(A)[m, k] * op(B)[k, n], added to C if `accumulate`. op(X) = X or its transpose; storage is
/// row-major with leading dimensions in elements. Products of BF16 are summed in FP32. Any of m, n, k may be zero; with
/// k = 0 the product is zero. C overlaps neither A nor B.
template <class Scalar>
struct Gemm {
    index_t m = 0;
    index_t n = 0;
    index_t k = 0;
    const Scalar* a = nullptr;  ///< [m, k], or [k, m] if transpose_a
    index_t lda = 0;
    bool transpose_a = false;
    const Scalar* b = nullptr;  ///< [k, n], or [n, k] if transpose_b
    index_t ldb = 0;
    bool transpose_b = false;
    accumulator_t<Scalar>* c = nullptr;  ///< [m, n]
    index_t ldc = 0;
    accumulator_t<Scalar> alpha = 1;
    bool accumulate = false;
};

/// The product of views: sizes come from C and A, whose shapes op(A) [m, k] and op(B) [k, n] must fit.
template <class Scalar>
[[nodiscard]] Gemm<Scalar> product(core::MatrixView<const Scalar> a, bool transpose_a, core::MatrixView<const Scalar> b,
                                   bool transpose_b, core::MatrixView<accumulator_t<Scalar>> c,
                                   accumulator_t<Scalar> alpha = 1, bool accumulate = false) {
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

/// Processor state that products of a micro-kernel need: lives on the stack of the thread that computes them.
class ProcessorScope {
public:
    explicit ProcessorScope(const ProcessorState& state) : state_(state) {
        if (state_.enter != nullptr) {
            state_.enter();
        }
    }
    ~ProcessorScope() {
        if (state_.leave != nullptr) {
            state_.leave();
        }
    }
    ProcessorScope(const ProcessorScope&) = delete;
    ProcessorScope& operator=(const ProcessorScope&) = delete;

private:
    const ProcessorState& state_;
};

/// One line of kernels/table.inc.
template <class Scalar>
struct GemmKernel {
    std::string_view name;
    Isa isa;
    int preference;
    const micro_kernel_t<Scalar>* micro_kernel;

    /// Computes one product on the calling thread.
    void run(const Gemm<Scalar>& product) const;
};

/// All kernels for Scalar (bf16, float, double, int8) that are built in, by ascending preference; the first one is the
/// portable reference.
template <class Scalar>
[[nodiscard]] std::span<const GemmKernel<Scalar>> gemm_kernels();

/// What serves activations of type Scalar.
template <class Scalar>
struct ChosenKernels {
    GemmKernel<Scalar> gemm;
    const ElementwiseKernels<Scalar>* elementwise;
};
template <>
struct ChosenKernels<int8> {
    GemmKernel<int8> gemm;
};

/// The kernels chosen for this process. Immutable, shared by all threads.
class KernelSet {
public:
    /// `choice` is one of `choices()`. Takes the most preferred kernels that it admits and that the machine runs.
    /// `parts` is what `operand_parts` says of BF16. Throws a usage error if the machine runs no level of the choice.
    explicit KernelSet(std::string_view choice = "auto", int parts = 1);
    /// `kernel` for BF16, whether or not this machine runs it, and what suits its level beside it: for tests and
    /// measurements of one implementation.
    explicit KernelSet(const GemmKernel<core::bf16>& kernel, int parts = 1);

    template <class Scalar>
    [[nodiscard]] const ChosenKernels<Scalar>& of() const {
        return std::get<ChosenKernels<Scalar>>(chosen_);
    }

    /// In how many parts forward passes outside of routed experts take activations: 2 where Scalar is narrower than its
    /// sums and the run is to be closer to them.
    template <class Scalar>
    [[nodiscard]] int operand_parts() const {
        return std::is_same_v<Scalar, accumulator_t<Scalar>> ? 1 : parts_;
    }

    /// Computes independent products on the thread team: every product is split into blocks, largest first, so that
    /// many small products and one large one both use all threads. Results do not depend on the number of threads. Call
    /// it from serial code.
    template <class Scalar>
    void run(std::span<const Gemm<Scalar>> batch) const;
    template <class Scalar>
    void run(const Gemm<Scalar>& product) const {
        run(std::span<const Gemm<Scalar>>(&product, 1));
    }

    /// The micro-kernel below `run`, for code that blocks and packs by itself.
    template <class Scalar>
    [[nodiscard]] const micro_kernel_t<Scalar>& micro_kernel() const {
        return *of<Scalar>().gemm.micro_kernel;
    }
    /// Name of the kernel that computes products of Scalar.
    template <class Scalar>
    [[nodiscard]] std::string_view gemm_name() const {
        return of<Scalar>().gemm.name;
    }
    template <class Scalar>
    [[nodiscard]] const ElementwiseKernels<Scalar>& elementwise() const {
        return *of<Scalar>().elementwise;
    }

private:
    explicit KernelSet(Features features);

    std::tuple<ChosenKernels<core::bf16>, ChosenKernels<float>, ChosenKernels<double>, ChosenKernels<int8>> chosen_;
    int parts_ = 1;
};

}  // namespace moesaic::kernels
