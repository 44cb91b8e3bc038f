// Where frozen weights come from: an interface, and its implementation for Hugging Face checkpoints.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "io/safetensors.hpp"

#include <span>
#include <string>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;

/// A rectangle of a tensor that is [rows, cols] as a whole; a vector [N] is one row of N columns.
struct TensorPart {
    index_t rows = 0;
    index_t cols = 0;
    index_t row_begin = 0;
    index_t col_begin = 0;
};

/// Delivers parts of named tensors as T. A missing tensor or one of another shape is an error that names it.
template <class T>
class WeightSource {
public:
    virtual ~WeightSource() = default;
    /// Fills `out` with the part of tensor `name` that begins at the given row and column.
    virtual void read(const std::string& name, const TensorPart& part, MatrixView<T> out) const = 0;
    /// Fills `out` with a whole tensor in the accumulator's type, for norms and routers.
    virtual void read_exactly(const std::string& name, MatrixView<accumulator_t<T>> out) const = 0;

    void read_vector(const std::string& name, std::span<accumulator_t<T>> out) const {
        read_exactly(name, {out.data(), 1, static_cast<index_t>(out.size())});
    }
    void read_matrix(const std::string& name, MatrixView<T> out) const {
        read(name, {out.rows(), out.cols(), 0, 0}, out);
    }
};

/// Reads from safetensors files; the tensor source must outlive the object.
template <class T>
class CheckpointWeights final : public WeightSource<T> {
public:
    explicit CheckpointWeights(const io::TensorSource& tensors) : tensors_(tensors) {}
    void read(const std::string& name, const TensorPart& part, MatrixView<T> out) const override;
    void read_exactly(const std::string& name, MatrixView<accumulator_t<T>> out) const override;

private:
    const io::TensorSource& tensors_;
};

}  // namespace moesaic::model
