// Blocks of a matrix whose tensors stored_matrix.cpp has found.
#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/small_floats.hpp"
#include "model/weights/stored_matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace moesaic::model {
namespace {

using ops::WeightFormat;

/// Where in a word of AWQ the code of each of eight columns lies, in codes.
constexpr std::array<index_t, 8> places_of_awq = {0, 4, 1, 5, 2, 6, 3, 7};

std::uint32_t bits_of(std::uint32_t word, index_t place, index_t bits) {
    return word >> static_cast<std::uint32_t>(place * bits) & ((1U << static_cast<std::uint32_t>(bits)) - 1);
}

}  // namespace

index_t StoredMatrix::group_of(index_t col) const {
    return column_groups_.empty() ? col / group_.cols : column_groups_[static_cast<std::size_t>(col)];
}

index_t StoredMatrix::scale_row_of(index_t row) const {
    return row / rows_ * divided(rows_, group_.rows) + row % rows_ / group_.rows;
}

StoredMatrix::GroupValues StoredMatrix::read_scales(index_t row, index_t rows, index_t first_group,
                                                    index_t groups) const {
    GroupValues result{scale_row_of(row), first_group, {}};
    const index_t scale_rows = scale_row_of(row + rows - 1) - result.first_row + 1;
    result.values.resize(scale_rows, groups);
    if (scales_transposed_) {
        core::Matrix<float> stored(groups, scale_rows);
        source_.read<float>(scales_, stored, first_group, result.first_row);
        for (index_t r = 0; r < scale_rows; ++r) {
            for (index_t g = 0; g < groups; ++g) {
                result.values.view()(r, g) = stored.view()(g, r);
            }
        }
    } else if (is_e8m0(source_.info(scales_))) {
        core::Matrix<std::uint8_t> stored(scale_rows, groups);
        source_.read_bytes(scales_, io::bytes_of(stored.view()), result.first_row, first_group,
                           divided(cols_, group_.cols));
        std::transform(stored.flat().begin(), stored.flat().end(), result.values.data(), core::widen_e8m0);
    } else {
        source_.read<float>(scales_, result.values, result.first_row, first_group, divided(cols_, group_.cols));
    }
    if (!core::all_finite(result.values.view())) {
        fail_values(scales_, "a scale that is no finite number");
    }
    return result;
}

StoredMatrix::GroupValues StoredMatrix::read_zeros(index_t row, index_t rows, index_t first_group,
                                                   index_t groups) const {
    GroupValues result{row, first_group, {}};
    result.values.resize(rows, groups);
    const MatrixView<float> values = result.values;
    if (zero_packing_ == ZeroPacking::bytes) {
        core::Matrix<std::int8_t> stored(rows, groups);
        source_.read_bytes(zeros_, io::bytes_of(stored.view()), row, first_group);
        std::copy_n(stored.data(), stored.size(), values.data());
        return result;
    }
    const index_t of_word = codes_of_word();
    const index_t first_word = row / of_word;
    const index_t words = (row + rows - 1) / of_word - first_word + 1;
    const bool is_down = zero_packing_ == ZeroPacking::words_down;
    core::Matrix<std::uint32_t> stored(is_down ? words : groups, is_down ? groups : words);
    const index_t word_bytes = sizeof(std::uint32_t);
    source_.read_bytes(zeros_, io::bytes_of(stored.view()), is_down ? first_word : first_group,
                       word_bytes * (is_down ? first_group : first_word));
    // Unsigned bytes become the signed ones that the codes become.
    const float offset = static_cast<float>(quantisation_.zero_offset) - (bits_ == 8 ? 128.0F : 0.0F);
    for (index_t r = 0; r < rows; ++r) {
        const index_t word = (row + r) / of_word - first_word;
        const index_t place = (row + r) % of_word;
        const index_t shifted =
            zero_packing_ == ZeroPacking::words_of_awq ? places_of_awq[static_cast<std::size_t>(place)] : place;
        for (index_t g = 0; g < groups; ++g) {
            const std::uint32_t bits = is_down ? stored.view()(word, g) : stored.view()(g, word);
            values(r, g) = static_cast<float>(bits_of(bits, shifted, bits_)) + offset;
        }
    }
    return result;
}

void StoredMatrix::read_code_bytes(index_t row, index_t col, MatrixView<std::uint8_t> out) const {
    const std::string& codes = tensors_.front();
    constexpr index_t word_bytes = sizeof(std::uint32_t);
    const bool is_word = source_.info(codes).dtype == io::DType::i32;
    switch (packing_) {
        case Packing::numbers:
            break;
        case Packing::bytes: {
            const index_t row_bytes = is_word ? divided(cols_, word_bytes) * word_bytes : cols_;
            source_.read_bytes(codes, io::bytes_of(out), row, col, row_bytes);
            break;
        }
        case Packing::nibbles: {
            const index_t row_bytes = is_word ? divided(cols_, codes_of_word()) * word_bytes : divided(cols_, 2);
            const index_t first = col / 2;
            core::Matrix<std::uint8_t> stored(out.rows(), divided(col + out.cols(), 2) - first);
            source_.read_bytes(codes, io::bytes_of(stored.view()), row, first, row_bytes);
            for (index_t r = 0; r < out.rows(); ++r) {
                const std::uint8_t* bytes = stored.view()[r];
                for (index_t c = 0; c < out.cols(); ++c) {
                    out(r, c) = static_cast<std::uint8_t>(bits_of(bytes[(col + c) / 2 - first], (col + c) % 2, 4));
                }
            }
            break;
        }
        case Packing::words_down: {
            const index_t of_word = codes_of_word();
            const index_t first = col / of_word;
            core::Matrix<std::uint32_t> stored((col + out.cols() - 1) / of_word - first + 1, out.rows());
            source_.read_bytes(codes, io::bytes_of(stored.view()), first, row * word_bytes);
            for (index_t c = 0; c < out.cols(); ++c) {
                const std::uint32_t* words = stored.view()[(col + c) / of_word - first];
                for (index_t r = 0; r < out.rows(); ++r) {
                    out(r, c) = static_cast<std::uint8_t>(bits_of(words[r], (col + c) % of_word, bits_));
                }
            }
            break;
        }
        case Packing::words_across: {
            const index_t of_word = codes_of_word();
            const index_t first = row / of_word;
            core::Matrix<std::uint32_t> stored(out.cols(), (row + out.rows() - 1) / of_word - first + 1);
            source_.read_bytes(codes, io::bytes_of(stored.view()), col, first * word_bytes);
            for (index_t c = 0; c < out.cols(); ++c) {
                const std::uint32_t* words = stored.view()[c];
                for (index_t r = 0; r < out.rows(); ++r) {
                    const index_t place = places_of_awq[static_cast<std::size_t>((row + r) % of_word)];
                    out(r, c) = static_cast<std::uint8_t>(bits_of(words[(row + r) / of_word - first], place, bits_));
                }
            }
            break;
        }
    }
    if (is_word && bits_ == 8) {  // signed numbers, stored with 128 added
        for (index_t r = 0; r < out.rows(); ++r) {
            std::transform(out[r], out[r] + out.cols(), out[r],
                           [](std::uint8_t code) { return static_cast<std::uint8_t>(code ^ 0x80U); });
        }
    }
}

ops::CodedRows StoredMatrix::read_coded(index_t row, index_t col, index_t rows, index_t cols,
                                        index_t columns_of_scale) const {
    // Read with the codes, not for each of many thousands of matrices when they are looked for.
    if (!groups_of_columns_.empty() && column_groups_.empty() && !read_column_groups().empty()) {
        fail_values(groups_of_columns_,
                    fmt::format("columns out of order, which {} does not say", quantisation_.source));
    }
    ops::CodedRows coded;
    coded.format = codes_;
    coded.columns_of_scale = columns_of_scale;
    coded.common_scale = common_scale_;
    coded.codes.resize(rows, cols);
    read_code_bytes(row, col, coded.codes);
    const bool in_order = column_groups_.empty();
    const index_t first_group = in_order ? group_of(col) : 0;
    const index_t groups = (in_order ? group_of(col + cols - 1) + 1 : divided(cols_, group_.cols)) - first_group;
    const auto spread = [&](const GroupValues& read, const auto& row_of, core::Matrix<float>& out) {
        out.resize(rows, divided(cols, columns_of_scale));
        for (index_t r = 0; r < rows; ++r) {
            const float* values = read.values.view()[row_of(row + r) - read.first_row];
            for (index_t g = 0; g < out.cols(); ++g) {
                out.view()(r, g) = values[group_of(col + g * columns_of_scale) - first_group];
            }
        }
    };
    spread(
        read_scales(row, rows, first_group, groups), [&](index_t r) { return scale_row_of(r); }, coded.scales);
    if (zero_packing_ != ZeroPacking::none) {
        spread(
            read_zeros(row, rows, first_group, groups), [](index_t r) { return r; }, coded.zeros);
    } else if (codes_ == WeightFormat::uint4) {
        coded.zeros.resize(rows, coded.scales.cols());
        coded.zeros.fill(ops::int4_offset);
    }
    return coded;
}

ops::CodedRows StoredMatrix::read_codes(index_t row, index_t col, index_t rows, index_t cols) const {
    return read_coded(row, col, rows, cols, codes_ == WeightFormat::nvfp4 ? ops::kernel_block / 2 : ops::kernel_block);
}

template <class Scalar>
void StoredMatrix::read(index_t row, index_t col, MatrixView<Scalar> out) const {
    if (out.empty()) {
        return;
    }
    if (!is_coded()) {
        source_.read<Scalar>(tensors_.front(), out, row, col);
        return;
    }
    ops::decode_rows(read_coded(row, col, out.rows(), out.cols(), 1), out);
}

template void StoredMatrix::read(index_t, index_t, MatrixView<core::bf16>) const;
template void StoredMatrix::read(index_t, index_t, MatrixView<float>) const;
template void StoredMatrix::read(index_t, index_t, MatrixView<double>) const;

}  // namespace moesaic::model
