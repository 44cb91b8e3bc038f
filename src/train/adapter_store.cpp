#include "train/adapter_store.hpp"

#include "core/trace.hpp"

#include <algorithm>
#include <exception>
#include <utility>

namespace moesaic::train {
namespace {

using core::Matrix;
using core::MatrixView;
using model::LoraTensor;
using model::Sharding;

/// Puts the piece [held * local_rows, local_cols] of the rank whose slice is `slice` in its place of `full`.
void put_piece(const LoraTensor& tensor, core::Slice slice, const float* piece, MatrixView<float> full) {
    const bool by_rows = tensor.sharding == Sharding::rows;
    const index_t rows = by_rows ? slice.extent : tensor.rows;
    const index_t cols = tensor.sharding == Sharding::columns ? slice.extent : tensor.cols;
    for (index_t m = 0; m < tensor.held.extent; ++m) {
        for (index_t i = 0; i < rows; ++i) {
            float* out = full[m * tensor.rows + i + (by_rows ? slice.begin : 0)] +
                         (tensor.sharding == Sharding::columns ? slice.begin : 0);
            std::copy_n(piece + (m * rows + i) * cols, cols, out);
        }
    }
}

/// Whole matrices [held * rows, cols] on rank 0 of the tensor group, from the slices of its ranks.
Matrix<float> join_slices(const LoraTensor& tensor, const mpi::Communicator& tensor_group,
                          std::span<const float> mine) {
    const bool root = tensor_group.is_root();
    Matrix<float> joined(root ? tensor.held.extent * tensor.rows : 0, tensor.cols);
    if (tensor.sharding == Sharding::none) {
        std::copy_n(mine.data(), joined.size(), joined.data());
        return joined;
    }
    const index_t extent = tensor.sharding == Sharding::rows ? tensor.rows : tensor.cols;
    const index_t other = tensor.held.extent * (tensor.sharding == Sharding::rows ? tensor.cols : tensor.rows);
    std::vector<index_t> counts;
    counts.reserve(static_cast<std::size_t>(tensor_group.size()));
    for (int r = 0; r < tensor_group.size(); ++r) {
        counts.push_back(model::shard_of(extent, r, tensor_group.size()).extent * other);
    }
    Matrix<float> pieces(1, root ? extent * other : 0);
    tensor_group.gather_blocks<float>(mine, pieces.flat(), counts);
    const float* piece = pieces.data();
    for (int r = 0; root && r < tensor_group.size(); ++r) {
        put_piece(tensor, model::shard_of(extent, r, tensor_group.size()), piece, joined);
        piece += counts[static_cast<std::size_t>(r)];
    }
    return joined;
}

/// All matrices [count * rows, cols] on rank 0 of the ranks that hold different experts.
Matrix<float> join_experts(const LoraTensor& tensor, const mpi::Communicator& groups, Matrix<float> mine) {
    if (tensor.held.extent == tensor.count()) {
        return mine;
    }
    std::vector<index_t> counts;
    for (int g = 0; g < groups.size(); ++g) {
        counts.push_back(core::slice_of(tensor.count(), g, groups.size()).extent * tensor.rows * tensor.cols);
    }
    Matrix<float> all(groups.is_root() ? tensor.count() * tensor.rows : 0, tensor.cols);
    groups.gather_blocks<float>(mine.flat(), all.flat(), counts);
    return all;
}

}  // namespace

Matrix<float> AdapterStore::values(std::size_t bucket) const {
    const Matrix<float>& from = parameters_.buckets[bucket]->values;
    Matrix<float> copy(1, from.cols());
    std::copy_n(from.data(), from.size(), copy.data());
    return copy;
}

std::vector<FullTensor> AdapterStore::collect(std::size_t bucket, const BucketSource& source) const {
    const core::trace::Scope scope(core::scopes::lora_collect);
    const Matrix<float> held = source(bucket);
    std::vector<FullTensor> tensors;
    if (!grid_.data().is_root()) {
        return tensors;  // another replica holds the same and delivers it
    }
    for (const LoraTensor& tensor : parameters_.buckets[bucket]->tensors) {
        const std::span<const float> mine(held.data() + tensor.offset, static_cast<std::size_t>(tensor.size()));
        Matrix<float> joined = join_slices(tensor, grid_.tensor(), mine);
        if (grid_.tensor().is_root()) {
            joined = join_experts(tensor, grid_.expert(), std::move(joined));
        }
        tensors.push_back({&tensor, std::move(joined)});
    }
    if (!grid_.world().is_root()) {
        tensors.clear();
    }
    return tensors;
}

void AdapterStore::for_each_tensor(const Use& use) const {
    for_each_tensor([this](std::size_t bucket) { return values(bucket); }, use);
}

void AdapterStore::for_each_tensor(const BucketSource& source, const Use& use) const {
    std::exception_ptr error;
    for (std::size_t b = 0; b < parameters_.buckets.size(); ++b) {
        for (const FullTensor& tensor : collect(b, source)) {
            try {
                if (error == nullptr) {
                    use(tensor);
                }
            } catch (...) {
                error = std::current_exception();
            }
        }
    }
    grid_.world().agree([&] {
        if (error != nullptr) {
            std::rethrow_exception(error);
        }
    });
}

void take_piece(const LoraTensor& tensor, MatrixView<const float> full, MatrixView<float> piece) {
    for (index_t m = 0; m < tensor.held.extent; ++m) {
        const MatrixView<const float> matrix = full.rows((tensor.held.begin + m) * tensor.rows, tensor.rows);
        for (index_t i = 0; i < tensor.local_rows; ++i) {
            std::copy_n(matrix[tensor.row_begin() + i] + tensor.col_begin(), tensor.local_cols,
                        piece[m * tensor.local_rows + i]);
        }
    }
}

}  // namespace moesaic::train
