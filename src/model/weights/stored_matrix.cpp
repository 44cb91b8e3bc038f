#include "model/weights/stored_matrix.hpp"

#include "core/error.hpp"
#include "core/finite.hpp"
#include "core/small_floats.hpp"
#include "core/text.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

namespace moesaic::model {
namespace {

using core::ExitCode;
using ops::WeightFormat;

constexpr std::string_view weight_suffix = ".weight";
constexpr std::string_view packed_suffix = ".weight_packed";  // of compressed-tensors
constexpr std::string_view words_suffix = ".qweight";         // of GPTQ and AWQ
constexpr std::string_view blocks_suffix = "_blocks";         // of gpt-oss

/// Where in a word of AWQ the code of each of eight columns lies, in codes.
constexpr std::array<index_t, 8> places_of_awq = {0, 4, 1, 5, 2, 6, 3, 7};

constexpr index_t divided(index_t size, index_t by) {
    return (size + by - 1) / by;
}

std::uint32_t bits_of(std::uint32_t word, index_t place, index_t bits) {
    return word >> static_cast<std::uint32_t>(place * bits) & ((1U << static_cast<std::uint32_t>(bits)) - 1);
}

/// Whether a tensor holds powers of two: E8M0, which older files call bytes.
bool is_e8m0(const io::TensorInfo& info) {
    return info.dtype == io::DType::f8_e8m0 || info.dtype == io::DType::u8;
}

template <class T>
MatrixView<std::byte> bytes_of(MatrixView<T> view) {
    constexpr auto size = static_cast<index_t>(sizeof(T));
    return {reinterpret_cast<std::byte*>(view.data()), view.rows(), view.cols() * size, view.stride() * size};
}

}  // namespace

StoredMatrix::StoredMatrix(const io::TensorSource& source, const Quantisation& quantisation)
    : source_(source), quantisation_(quantisation) {}

std::optional<std::string> StoredMatrix::name_of(const std::string& tensor) {
    for (const std::string_view suffix : {packed_suffix, words_suffix}) {
        if (tensor.ends_with(suffix)) {
            return fmt::format("{}{}", std::string_view(tensor).substr(0, tensor.size() - suffix.size()),
                               weight_suffix);
        }
    }
    if (tensor.ends_with(blocks_suffix)) {
        return tensor.substr(0, tensor.size() - blocks_suffix.size());
    }
    return tensor.ends_with(weight_suffix) || tensor.ends_with(".gate_up_proj") || tensor.ends_with(".down_proj")
               ? std::optional(tensor)
               : std::nullopt;
}

std::optional<StoredMatrix> StoredMatrix::find(const io::TensorSource& source, const Quantisation& quantisation,
                                               const std::string& name) {
    StoredMatrix matrix(source, quantisation);
    const std::string base = name.substr(0, name.size() - (name.ends_with(weight_suffix) ? weight_suffix.size() : 0));
    if (source.contains(name)) {
        switch (source.info(name).dtype) {
            case io::DType::f8_e4m3:
                matrix.use_bytes(name, WeightFormat::fp8);
                break;
            case io::DType::i8:
                matrix.use_bytes(name, WeightFormat::int8);
                break;
            case io::DType::u8:
                matrix.use_nvfp4(base, name, base + ".weight_scale_2", false);
                break;
            default:
                matrix.use_numbers(name);
        }
    } else if (source.contains(fmt::format("{}{}", base, packed_suffix))) {
        matrix.use_packed(base);
    } else if (source.contains(fmt::format("{}{}", base, words_suffix))) {
        matrix.use_words(base);
    } else if (source.contains(fmt::format("{}{}", name, blocks_suffix))) {
        matrix.use_blocks(name);
    } else {
        return std::nullopt;
    }
    return matrix;
}

const io::TensorInfo& StoredMatrix::require_tensor(const std::string& tensor) const {
    const io::TensorInfo& codes = source_.info(tensors_.front());
    core::require(source_.contains(tensor), ExitCode::corrupt_input,
                  "{}: tensor {} is missing (the codes of {} are no numbers without it); get the files again",
                  codes.file.string(), core::printable(tensor), core::printable(tensors_.front()));
    return source_.info(tensor);
}

void StoredMatrix::fail_shape(const std::string& tensor, const std::string& expected) const {
    const io::TensorInfo& info = source_.info(tensor);
    core::fail(ExitCode::corrupt_input,
               "{}: tensor {} has dtype {} and shape [{}] ({} for weights [{}, {}]); use the config.json that belongs "
               "to the weights",
               info.file.string(), core::printable(tensor), io::dtype_name(info.dtype), fmt::join(info.shape, ", "),
               expected, rows(), cols());
}

void StoredMatrix::fail_values(const std::string& tensor, const std::string& what) const {
    core::fail(ExitCode::corrupt_input, "{}: tensor {} has {}; get the file again, or another model",
               source_.info(tensor).file.string(), core::printable(tensor), what);
}

void StoredMatrix::use_numbers(const std::string& name) {
    const io::TensorInfo& info = source_.info(name);
    core::require(io::is_number(info.dtype), ExitCode::usage,
                  "{}: tensor {} has dtype {}, which is none that weights are read in (BF16, F16, F32, F64, and what "
                  "docs/formats.md lists); use the model's original weights",
                  info.file.string(), core::printable(name), io::dtype_name(info.dtype));
    tensors_ = {name};
    rows_ = info.rows();
    cols_ = info.cols();
    switch (info.dtype) {
        case io::DType::bf16:
            format_ = WeightFormat::bf16;
            break;
        case io::DType::f32:
            format_ = WeightFormat::fp32;
            break;
        case io::DType::f64:
            format_ = WeightFormat::fp64;
            break;
        default:
            break;
    }
}

void StoredMatrix::set_codes(const std::string& tensor, Packing packing, WeightFormat codes, index_t rows,
                             index_t cols) {
    const io::TensorInfo& info = source_.info(tensor);
    core::require(quantisation_.method != QuantisationMethod::none, ExitCode::usage,
                  "{}: tensor {} has dtype {}, that of quantised weights (config.json has no quantization_config to "
                  "say how they are scaled); use the config.json that belongs to the weights",
                  info.file.string(), core::printable(tensor), io::dtype_name(info.dtype));
    tensors_ = {tensor};
    packing_ = packing;
    codes_ = codes;
    rows_ = rows;
    cols_ = cols;
    core::require(rows > 0 && cols > 0, ExitCode::corrupt_input,
                  "{}: tensor {} of shape [{}] has no weights; get the files again", info.file.string(),
                  core::printable(tensor), fmt::join(info.shape, ", "));
}

void StoredMatrix::use_bytes(const std::string& name, WeightFormat codes) {
    const io::TensorInfo& info = source_.info(name);
    const bool is_stack = info.shape.size() == 3;
    count_ = is_stack ? info.shape[0] : 1;
    set_codes(name, Packing::bytes, codes, info.rows() / std::max<index_t>(count_, 1), info.cols());
    set_scales({name + "_scale_inv", name + "_scale"});
    if (const std::string zeros = name + "_zero_point"; source_.contains(zeros)) {
        set_zeros(zeros, ZeroPacking::bytes);
    }
    settle();
}

std::optional<std::array<std::int64_t, 2>> StoredMatrix::packed_sizes(const std::string& tensor) const {
    if (!source_.contains(tensor)) {
        return std::nullopt;
    }
    const io::TensorInfo& info = source_.info(tensor);
    std::array<std::int64_t, 2> sizes{};
    core::require(
        info.dtype == io::DType::i64 && info.bytes == sizeof sizes, ExitCode::corrupt_input,
        "{}: tensor {} has dtype {} and shape [{}] (rows and columns as I64 are expected); get the files again",
        info.file.string(), core::printable(tensor), io::dtype_name(info.dtype), fmt::join(info.shape, ", "));
    source_.read_bytes(tensor, bytes_of(MatrixView<std::int64_t>(sizes.data(), 1, 2)), 0, 0, sizeof sizes);
    return sizes;
}

void StoredMatrix::use_packed(const std::string& base) {
    const std::string codes = fmt::format("{}{}", base, packed_suffix);
    const io::TensorInfo& info = source_.info(codes);
    if (info.dtype == io::DType::u8 && source_.contains(base + ".weight_global_scale")) {
        use_nvfp4(base, codes, base + ".weight_global_scale", true);
        return;
    }
    if (info.dtype == io::DType::u8) {  // MXFP4
        bits_ = 4;
        set_codes(codes, Packing::nibbles, WeightFormat::mxfp4, info.rows(), 2 * info.cols());
        set_scales({base + ".weight_scale"});
        settle();
        return;
    }
    const std::optional<std::array<std::int64_t, 2>> sizes = packed_sizes(base + ".weight_shape");
    // A file may have modules of 4 and of 8 bits.
    bits_ = sizes && divided((*sizes)[1], 8) == info.cols()   ? 4
            : sizes && divided((*sizes)[1], 4) == info.cols() ? 8
                                                              : quantisation_.bits;
    const bool is_byte = bits_ == 8;
    set_codes(codes, is_byte ? Packing::bytes : Packing::nibbles, is_byte ? WeightFormat::int8 : WeightFormat::int4,
              info.rows(), info.cols() * codes_of_word());
    if (info.dtype != io::DType::i32) {
        fail_shape(codes, "words of 32 bits are expected");
    }
    if (sizes) {
        tensors_.push_back(base + ".weight_shape");
        if ((*sizes)[0] != rows_ || divided((*sizes)[1], codes_of_word()) != info.cols()) {
            fail_values(tensors_.back(), fmt::format("{} x {}, which the codes [{}] are not", (*sizes)[0], (*sizes)[1],
                                                     fmt::join(info.shape, ", ")));
        }
        cols_ = (*sizes)[1];
    }
    set_scales({base + ".weight_scale"});
    if (const std::string zeros = base + ".weight_zero_point"; source_.contains(zeros)) {
        set_zeros(zeros, ZeroPacking::words_down);
    }
    set_column_groups(base + ".weight_g_idx");
    settle();
}

void StoredMatrix::use_nvfp4(const std::string& base, const std::string& codes, const std::string& common,
                             bool is_inverse) {
    const io::TensorInfo& info = source_.info(codes);
    bits_ = 4;
    set_codes(codes, Packing::nibbles, WeightFormat::nvfp4, info.rows(), 2 * info.cols());
    set_scales({base + ".weight_scale"});
    set_common_scale(common, is_inverse);
    settle();
}

void StoredMatrix::use_words(const std::string& base) {
    const std::string codes = fmt::format("{}{}", base, words_suffix);
    const io::TensorInfo& info = source_.info(codes);
    const bool is_awq = quantisation_.method == QuantisationMethod::awq;
    bits_ = quantisation_.bits;
    const index_t rows = is_awq ? info.cols() * codes_of_word() : info.cols();
    const index_t cols = is_awq ? info.rows() : info.rows() * codes_of_word();
    set_codes(codes, is_awq ? Packing::words_across : Packing::words_down,
              bits_ == 8 ? WeightFormat::int8 : WeightFormat::uint4, rows, cols);
    core::require(is_awq || quantisation_.method == QuantisationMethod::gptq, ExitCode::usage,
                  "{}: tensor {} is one of GPTQ or AWQ ({} names another method); use the config.json that belongs to "
                  "the weights",
                  info.file.string(), core::printable(codes), quantisation_.source);
    if (info.dtype != io::DType::i32 || info.shape.size() != 2) {
        fail_shape(codes, "a matrix of words of 32 bits is expected");
    }
    set_scales({base + ".scales"}, true);
    set_zeros(base + ".qzeros", is_awq ? ZeroPacking::words_of_awq : ZeroPacking::words_across);
    if (!is_awq) {
        set_column_groups(base + ".g_idx");
    }
    settle();
}

void StoredMatrix::use_blocks(const std::string& name) {
    const std::string codes = fmt::format("{}{}", name, blocks_suffix);
    const io::TensorInfo& info = source_.info(codes);
    const bool fits = info.shape.size() == 4 && info.dtype == io::DType::u8;
    bits_ = 4;
    count_ = fits ? info.shape[0] : 1;
    set_codes(codes, Packing::nibbles, WeightFormat::mxfp4, fits ? info.shape[1] : 1,
              fits ? info.shape[2] * info.shape[3] * 2 : 1);
    if (!fits) {
        fail_shape(codes, "experts, rows, blocks and their bytes as U8 are expected");
    }
    set_scales({name + "_scales"});
    settle();
}

void StoredMatrix::set_scales(const std::vector<std::string>& names, bool transposed) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const auto& n) { return source_.contains(n); });
    scales_ = found == names.end() ? names.front() : *found;
    scales_transposed_ = transposed;
    const io::TensorInfo& info = require_tensor(scales_);
    tensors_.push_back(scales_);
    const bool wants_powers = codes_ == WeightFormat::mxfp4;
    if (wants_powers ? !is_e8m0(info) : !(io::is_number(info.dtype) || info.dtype == io::DType::f8_e8m0)) {
        fail_shape(scales_, wants_powers ? "E8M0 scales are expected" : "floating-point scales are expected");
    }
    index_t elements = 1;
    for (const index_t size : info.shape) {
        elements *= size;  // of a tensor that the file holds
    }
    std::vector<std::string> expected;
    for (const ScaleGroup& group : quantisation_.groups) {
        group_ = {group.rows == 0 ? rows_ : group.rows, group.cols == 0 ? cols_ : group.cols};
        const index_t down = divided(rows_, group_.rows);
        const index_t across = divided(cols_, group_.cols);
        const index_t last = transposed ? down : across;
        if (elements == count_ * down * across && (info.shape.size() < 2 || info.shape.back() == last)) {
            return;
        }
        expected.push_back(transposed ? fmt::format("[{}, {}]", across, down) : fmt::format("[{}, {}]", down, across));
    }
    fail_shape(scales_, fmt::format("groups as in {} have {}", quantisation_.source, fmt::join(expected, " or ")));
}

void StoredMatrix::set_zeros(const std::string& tensor, ZeroPacking packing) {
    const io::TensorInfo& info = require_tensor(tensor);
    tensors_.push_back(tensor);
    zeros_ = tensor;
    zero_packing_ = packing;
    const index_t groups = divided(cols_, group_.cols);
    const index_t words = divided(rows_, codes_of_word());
    const bool is_bytes = packing == ZeroPacking::bytes;
    const bool is_down = is_bytes || packing == ZeroPacking::words_down;
    const std::vector<index_t> expected = {is_bytes ? rows_ : is_down ? words : groups, is_down ? groups : words};
    if (info.dtype != (is_bytes ? io::DType::i8 : io::DType::i32) || info.shape != expected || group_.rows != 1) {
        fail_shape(tensor, fmt::format("zero points [{}] are expected", fmt::join(expected, ", ")));
    }
}

void StoredMatrix::set_common_scale(const std::string& tensor, bool is_inverse) {
    const io::TensorInfo& info = require_tensor(tensor);
    tensors_.push_back(tensor);
    if (info.dtype != io::DType::f32 || info.bytes != sizeof(float)) {
        fail_shape(tensor, "one F32 is expected");
    }
    source_.read<float>(tensor, {&common_scale_, 1, 1});
    common_scale_ = is_inverse ? 1 / common_scale_ : common_scale_;
    if (!std::isfinite(common_scale_) || common_scale_ <= 0) {
        fail_values(tensor, "a scale that is no positive number");
    }
}

void StoredMatrix::set_column_groups(const std::string& tensor) {
    if (!source_.contains(tensor)) {
        return;
    }
    const io::TensorInfo& info = source_.info(tensor);
    tensors_.push_back(tensor);
    groups_of_columns_ = tensor;
    if (info.dtype != io::DType::i32 || info.shape != std::vector<index_t>{cols_}) {
        fail_shape(tensor, fmt::format("groups of {} columns as I32 are expected", cols_));
    }
    if (quantisation_.reorders_columns) {
        column_groups_ = read_column_groups();
    }
}

std::vector<std::int32_t> StoredMatrix::read_column_groups() const {
    std::vector<std::int32_t> of_columns(static_cast<std::size_t>(cols_));
    source_.read_bytes(groups_of_columns_, bytes_of(MatrixView<std::int32_t>(of_columns.data(), 1, cols_)), 0, 0);
    const index_t groups = divided(cols_, group_.cols);
    bool in_order = true;
    for (index_t col = 0; col < cols_; ++col) {
        const std::int32_t group = of_columns[static_cast<std::size_t>(col)];
        if (group < 0 || group >= groups) {
            fail_values(groups_of_columns_,
                        fmt::format("group {} for column {} (groups are 0 to {})", group, col, groups - 1));
        }
        in_order = in_order && group == col / group_.cols;
    }
    return in_order ? std::vector<std::int32_t>() : of_columns;
}

void StoredMatrix::settle() {
    const bool is_nvfp4 = codes_ == WeightFormat::nvfp4;
    const index_t least = is_nvfp4 ? ops::kernel_block / 2 : ops::kernel_block;
    const bool fits = group_.cols % least == 0 || group_.cols >= cols_;
    const io::DType scale = source_.info(scales_).dtype;
    const bool has_zeros = zero_packing_ != ZeroPacking::none;
    if (codes_ == WeightFormat::int4 && (has_zeros || scale != io::DType::bf16)) {
        codes_ = WeightFormat::uint4;  // with scales of more digits
    }
    const bool holds_scale = !is_nvfp4 || scale == io::DType::f8_e4m3;
    const bool holds_zeros = !has_zeros || codes_ == WeightFormat::uint4;
    if (fits && column_groups_.empty() && holds_scale && holds_zeros) {
        format_ = codes_;
    }
}

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
        source_.read_bytes(scales_, bytes_of(stored.view()), result.first_row, first_group,
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
        source_.read_bytes(zeros_, bytes_of(stored.view()), row, first_group);
        std::copy_n(stored.data(), stored.size(), values.data());
        return result;
    }
    const index_t of_word = codes_of_word();
    const index_t first_word = row / of_word;
    const index_t words = (row + rows - 1) / of_word - first_word + 1;
    const bool is_down = zero_packing_ == ZeroPacking::words_down;
    core::Matrix<std::uint32_t> stored(is_down ? words : groups, is_down ? groups : words);
    const index_t word_bytes = sizeof(std::uint32_t);
    source_.read_bytes(zeros_, bytes_of(stored.view()), is_down ? first_word : first_group,
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
            source_.read_bytes(codes, bytes_of(out), row, col, row_bytes);
            break;
        }
        case Packing::nibbles: {
            const index_t row_bytes = is_word ? divided(cols_, codes_of_word()) * word_bytes : divided(cols_, 2);
            const index_t first = col / 2;
            core::Matrix<std::uint8_t> stored(out.rows(), divided(col + out.cols(), 2) - first);
            source_.read_bytes(codes, bytes_of(stored.view()), row, first, row_bytes);
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
            source_.read_bytes(codes, bytes_of(stored.view()), first, row * word_bytes);
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
            source_.read_bytes(codes, bytes_of(stored.view()), col, first * word_bytes);
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
