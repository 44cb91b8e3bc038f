// Row-major matrices: a view that does not own, and an aligned buffer that does.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace moesaic::core {

using index_t = std::int64_t;

/// Row-major view of `rows` x `cols` elements whose rows start `stride` elements apart.
template <class T>
class MatrixView {
public:
    MatrixView() = default;
    MatrixView(T* data, index_t rows, index_t cols, index_t stride) noexcept
        : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
    MatrixView(T* data, index_t rows, index_t cols) noexcept : MatrixView(data, rows, cols, cols) {}
    /// A view of mutable elements converts to a view of constant ones.
    template <class U>
    requires(std::is_same_v<const U, T>) MatrixView(const MatrixView<U>& other)
    noexcept : MatrixView(other.data(), other.rows(), other.cols(), other.stride()) {}

    [[nodiscard]] T* data() const noexcept { return data_; }
    [[nodiscard]] index_t rows() const noexcept { return rows_; }
    [[nodiscard]] index_t cols() const noexcept { return cols_; }
    [[nodiscard]] index_t stride() const noexcept { return stride_; }
    [[nodiscard]] bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }

    [[nodiscard]] T* operator[](index_t row) const noexcept { return data_ + row * stride_; }
    [[nodiscard]] T& operator()(index_t row, index_t col) const noexcept { return data_[row * stride_ + col]; }
    [[nodiscard]] std::span<T> row(index_t row) const noexcept {
        return {data_ + row * stride_, static_cast<std::size_t>(cols_)};
    }
    [[nodiscard]] MatrixView rows(index_t begin, index_t count) const noexcept {
        return {data_ + begin * stride_, count, cols_, stride_};
    }
    [[nodiscard]] MatrixView columns(index_t begin, index_t count) const noexcept {
        return {data_ + begin, rows_, count, stride_};
    }

private:
    T* data_ = nullptr;
    index_t rows_ = 0;
    index_t cols_ = 0;
    index_t stride_ = 0;
};

/// Memory of `bytes` bytes that begins a cache line, to be given to std::free; null if there is none. Large pieces ask
/// the system for huge pages: passes over weights and packed operands would otherwise wait for address translation.
[[nodiscard]] void* allocate_lines(std::size_t bytes) noexcept;

/// Cache-line aligned storage of trivially copyable elements that grows and keeps its capacity until `release`.
template <class T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

public:
    /// Pointer to at least `count` elements; contents are unspecified after a call that had to grow.
    T* reserve(std::size_t count) {
        if (count > capacity_) {
            data_.reset();
            capacity_ = 0;
            data_.reset(static_cast<T*>(allocate_lines(count * sizeof(T))));
            if (data_ == nullptr) {
                throw std::bad_alloc();
            }
            capacity_ = count;
        }
        return data_.get();
    }
    void release() noexcept {
        data_.reset();
        capacity_ = 0;
    }
    [[nodiscard]] T* data() const noexcept { return data_.get(); }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

private:
    struct Free {
        void operator()(T* pointer) const noexcept { std::free(pointer); }
    };
    std::unique_ptr<T, Free> data_;
    std::size_t capacity_ = 0;
};

/// A matrix that owns its elements; rows are contiguous. `resize` keeps the capacity and leaves contents unspecified.
template <class T>
class Matrix {
public:
    Matrix() = default;
    Matrix(index_t rows, index_t cols) { resize(rows, cols); }

    void resize(index_t rows, index_t cols) {
        buffer_.reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
        rows_ = rows;
        cols_ = cols;
    }
    void fill(T value) { std::fill_n(buffer_.data(), size(), value); }

    [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(rows_ * cols_); }
    [[nodiscard]] index_t rows() const noexcept { return rows_; }
    [[nodiscard]] index_t cols() const noexcept { return cols_; }
    [[nodiscard]] T* data() noexcept { return buffer_.data(); }
    [[nodiscard]] const T* data() const noexcept { return buffer_.data(); }
    [[nodiscard]] std::span<T> flat() noexcept { return {data(), size()}; }
    [[nodiscard]] std::span<const T> flat() const noexcept { return {data(), size()}; }
    [[nodiscard]] MatrixView<T> view() noexcept { return {data(), rows_, cols_}; }
    [[nodiscard]] MatrixView<const T> view() const noexcept { return {data(), rows_, cols_}; }
    operator MatrixView<T>() noexcept { return view(); }              // NOLINT(google-explicit-constructor)
    operator MatrixView<const T>() const noexcept { return view(); }  // NOLINT(google-explicit-constructor)

private:
    Buffer<T> buffer_;
    index_t rows_ = 0;
    index_t cols_ = 0;
};

}  // namespace moesaic::core
