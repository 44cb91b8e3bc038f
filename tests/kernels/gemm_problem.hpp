// Random products with operands that end at inaccessible pages, and a reference result with a bound of its error.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/kernel_set.hpp"

namespace moesaic::kernels::test {

/// `count` elements right before a page that can't be accessed: reading or writing past the end ends the test.
template <class Scalar>
class GuardedArray {
public:
    explicit GuardedArray(index_t count) : count_(static_cast<std::size_t>(count)) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t usable = (count_ * sizeof(Scalar) + page - 1) / page * page;
        bytes_ = usable + page;
        void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + usable, page, PROT_NONE) != 0) {
            throw std::bad_alloc();
        }
        memory_ = static_cast<char*>(memory);
        data_ = reinterpret_cast<Scalar*>(memory_ + usable - count_ * sizeof(Scalar));
    }
    ~GuardedArray() {
        if (memory_ != nullptr) {
            munmap(memory_, bytes_);
        }
    }
    GuardedArray(GuardedArray&& other) noexcept
        : count_(other.count_),
          bytes_(other.bytes_),
          memory_(std::exchange(other.memory_, nullptr)),
          data_(other.data_) {}
    GuardedArray(const GuardedArray&) = delete;
    GuardedArray& operator=(const GuardedArray&) = delete;

    [[nodiscard]] Scalar* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return count_; }
    [[nodiscard]] Scalar& operator[](index_t i) const { return data_[i]; }

private:
    std::size_t count_;
    std::size_t bytes_ = 0;
    char* memory_ = nullptr;
    Scalar* data_ = nullptr;
};

struct Shape {
    index_t m;
    index_t n;
    index_t k;
    bool transpose_a;
    bool transpose_b;
    index_t padding = 0;  ///< elements between rows of each matrix
    double alpha = 1;
    bool accumulate = false;
};

inline index_t stored_elements(index_t rows, index_t cols, index_t stride) {
    return rows == 0 || cols == 0 ? 0 : (rows - 1) * stride + cols;
}

/// A random element: of whole numbers all that there are, else between -1 and 1.
template <class S>
S random_element(std::mt19937& random) {
    if constexpr (std::is_integral_v<S>) {
        return static_cast<S>(random());
    } else {
        return S(std::uniform_real_distribution<float>(-1.0F, 1.0F)(random));
    }
}

/// Operands of one product. C starts as NaN, or the largest whole number, where it must not be read, and its gaps hold
/// a value to recognise.
template <class Scalar>
class Problem {
public:
    using Sum = accumulator_t<Scalar>;
    static constexpr Sum gap = -12345;
    static constexpr Sum unread = std::numeric_limits<Sum>::has_quiet_NaN ? std::numeric_limits<Sum>::quiet_NaN()
                                                                          : std::numeric_limits<Sum>::max();

    Problem(const Shape& shape, std::uint32_t seed)
        : shape_(shape),
          lda_((shape.transpose_a ? shape.m : shape.k) + shape.padding),
          ldb_((shape.transpose_b ? shape.k : shape.n) + shape.padding),
          ldc_(shape.n + shape.padding),
          a_(shape.transpose_a ? stored_elements(shape.k, shape.m, lda_) : stored_elements(shape.m, shape.k, lda_)),
          b_(shape.transpose_b ? stored_elements(shape.n, shape.k, ldb_) : stored_elements(shape.k, shape.n, ldb_)),
          c_(stored_elements(shape.m, shape.n, ldc_)) {
        std::mt19937 random(seed);
        std::generate_n(a_.data(), a_.size(), [&] { return random_element<Scalar>(random); });
        std::generate_n(b_.data(), b_.size(), [&] { return random_element<Scalar>(random); });
        std::fill_n(c_.data(), c_.size(), gap);
        for (index_t i = 0; i < shape.m; ++i) {
            for (index_t j = 0; j < shape.n; ++j) {
                c_[i * ldc_ + j] = shape.accumulate ? Sum(random_element<Scalar>(random)) : unread;
            }
        }
        start_.assign(c_.data(), c_.data() + c_.size());
    }

    [[nodiscard]] Gemm<Scalar> product() const {
        return {.m = shape_.m,
                .n = shape_.n,
                .k = shape_.k,
                .a = a_.data(),
                .lda = lda_,
                .transpose_a = shape_.transpose_a,
                .b = b_.data(),
                .ldb = ldb_,
                .transpose_b = shape_.transpose_b,
                .c = c_.data(),
                .ldc = ldc_,
                .alpha = static_cast<Sum>(shape_.alpha),
                .accumulate = shape_.accumulate};
    }
    [[nodiscard]] Scalar& a(index_t i, index_t k) const { return a_[shape_.transpose_a ? k * lda_ + i : i * lda_ + k]; }
    [[nodiscard]] Scalar& b(index_t k, index_t j) const { return b_[shape_.transpose_b ? j * ldb_ + k : k * ldb_ + j]; }
    [[nodiscard]] Sum c(index_t i, index_t j) const { return c_[i * ldc_ + j]; }
    [[nodiscard]] std::vector<Sum> result() const { return {c_.data(), c_.data() + c_.size()}; }
    void reset() const { std::copy(start_.begin(), start_.end(), c_.data()); }

    /// Compares C with sums in a wider type. The bound is that of any order of summation: k roundings of partial sums
    /// below sum |a| |b|, one of alpha, and one of C for each of the blocks that k may be cut into. Sums of whole
    /// numbers are exact.
    void expect_correct() const {
        using Wide = std::conditional_t<std::is_same_v<Sum, double>, long double, double>;
        constexpr Wide rounding = std::numeric_limits<Sum>::epsilon() / Wide{2};
        for (index_t i = 0; i < shape_.m; ++i) {
            for (index_t j = 0; j < shape_.n; ++j) {
                Wide sum = 0;
                Wide magnitude = 0;
                for (index_t k = 0; k < shape_.k; ++k) {
                    const Wide term = static_cast<Wide>(core::widen(a(i, k))) * static_cast<Wide>(core::widen(b(k, j)));
                    sum += term;
                    magnitude += std::abs(term);
                }
                const Wide alpha = static_cast<Sum>(shape_.alpha);
                const auto before =
                    shape_.accumulate ? static_cast<Wide>(start_[static_cast<std::size_t>(i * ldc_ + j)]) : Wide{0};
                magnitude *= std::abs(alpha);
                const Wide k = static_cast<Wide>(shape_.k);
                const Wide blocks = k / smallest_block + 2;
                const Wide bound = rounding * ((k + 1) * magnitude + blocks * (magnitude + std::abs(before)));
                const Wide expected = alpha * sum + before;
                ASSERT_LE(std::abs(static_cast<Wide>(c(i, j)) - expected), bound)
                    << "element " << i << ", " << j << ": " << c(i, j) << " instead of " << expected;
            }
        }
    }

    void expect_gaps_untouched() const {
        for (std::size_t i = 0; i < c_.size(); ++i) {
            if (static_cast<index_t>(i) % ldc_ >= shape_.n) {
                ASSERT_EQ(c_.data()[i], gap) << "gap after row " << static_cast<index_t>(i) / ldc_;
            }
        }
    }

private:
    static constexpr int smallest_block = 256;

    Shape shape_;
    index_t lda_;
    index_t ldb_;
    index_t ldc_;
    GuardedArray<Scalar> a_;
    GuardedArray<Scalar> b_;
    GuardedArray<Sum> c_;
    std::vector<Sum> start_;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    return out << "m " << shape.m << ", n " << shape.n << ", k " << shape.k << (shape.transpose_a ? ", A^T" : "")
               << (shape.transpose_b ? ", B^T" : "") << ", padding " << shape.padding << ", alpha " << shape.alpha
               << (shape.accumulate ? ", accumulate" : "");
}

}  // namespace moesaic::kernels::test
