#include "ops/weights/coded_rows.hpp"

#include "core/scalar.hpp"

namespace moesaic::ops {

template <class Scalar>
void decode_rows(const CodedRows& coded, MatrixView<Scalar> out) {
    using Sum = core::accumulator_t<Scalar>;
    const MatrixView<const std::uint8_t> codes = coded.codes;
    const MatrixView<const float> scales = coded.scales;
    const MatrixView<const float> zeros = coded.zeros;
    for (index_t row = 0; row < codes.rows(); ++row) {
        for (index_t col = 0; col < codes.cols(); ++col) {
            const index_t group = col / coded.columns_of_scale;
            const auto zero = zeros.empty() ? Sum(0) : static_cast<Sum>(zeros(row, group));
            const auto scale = static_cast<Sum>(scales(row, group) * coded.common_scale);
            const auto number = static_cast<Sum>(number_of_code(coded.format, codes(row, col)));
            out(row, col) = static_cast<Scalar>((number - zero) * scale);
        }
    }
}

template void decode_rows(const CodedRows&, MatrixView<core::bf16>);
template void decode_rows(const CodedRows&, MatrixView<float>);
template void decode_rows(const CodedRows&, MatrixView<double>);

}  // namespace moesaic::ops
