// Rows of quantised weights on their way from a file to packed memory, whatever the file's layout.
#pragma once

#include "core/matrix.hpp"
#include "core/small_floats.hpp"
#include "ops/weights/weight_format.hpp"

#include <cstdint>

namespace moesaic::ops {

/// What signed 4-bit numbers are stored with added to them.
inline constexpr int int4_offset = 8;

/// The number that a code of a format stands for, before zero point and scale.
[[nodiscard]] constexpr float number_of_code(WeightFormat format, std::uint8_t code) {
    switch (format) {
        case WeightFormat::fp8:
            return core::widen_e4m3(code);
        case WeightFormat::int8:
            return static_cast<std::int8_t>(code);
        case WeightFormat::int4:
            return static_cast<float>(code - int4_offset);
        case WeightFormat::mxfp4:
        case WeightFormat::nvfp4:
            return core::values_of_e2m1[code];
        default:
            return code;
    }
}

/// Weights (number of code - zero point) * scale * common_scale. Codes are those of `format`, one in each byte.
struct CodedRows {
    WeightFormat format = {};
    index_t columns_of_scale = kernel_block;  ///< the last scale of a row may have fewer
    core::Matrix<std::uint8_t> codes;         // [rows, cols]
    core::Matrix<float> scales;               // [rows, scales of a row]
    core::Matrix<float> zeros;                // the same, or empty: 0
    float common_scale = 1;
};

/// Writes the weights to `out` [rows, cols], rounded once to Scalar: bf16, float or double.
template <class Scalar>
void decode_rows(const CodedRows& coded, MatrixView<Scalar> out);

}  // namespace moesaic::ops
