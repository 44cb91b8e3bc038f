#include "model/weights.hpp"

#include "core/error.hpp"

#include <fmt/ranges.h>

namespace moesaic::model {
namespace {

void check_shape(const io::TensorSource& tensors, const std::string& name, index_t rows, index_t cols) {
    const io::TensorInfo& info = tensors.info(name);
    core::require(
        info.rows() == rows && info.cols() == cols, core::ExitCode::corrupt_input,
        "{}: tensor {} has shape [{}] (config.json asks for [{}, {}]); use the config.json that belongs to the "
        "weights",
        info.file.string(), name, fmt::join(info.shape, ", "), rows, cols);
}

}  // namespace

template <class T>
void CheckpointWeights<T>::read(const std::string& name, const TensorPart& part, MatrixView<T> out) const {
    check_shape(tensors_, name, part.rows, part.cols);
    tensors_.read<T>(name, out, part.row_begin, part.col_begin);
}

template <class T>
void CheckpointWeights<T>::read_exactly(const std::string& name, MatrixView<accumulator_t<T>> out) const {
    check_shape(tensors_, name, out.rows(), out.cols());
    tensors_.read<accumulator_t<T>>(name, out);
}

template class CheckpointWeights<core::bf16>;
template class CheckpointWeights<float>;
template class CheckpointWeights<double>;

}  // namespace moesaic::model
