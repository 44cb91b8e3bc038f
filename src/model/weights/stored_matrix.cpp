#include "model/weights/stored_matrix.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace moesaic::model {
namespace {

using core::ExitCode;
using ops::WeightFormat;

constexpr std::string_view weight_suffix = ".weight";
constexpr std::string_view packed_suffix = ".weight_packed";  // of compressed-tensors
constexpr std::string_view words_suffix = ".qweight";         // of GPTQ and AWQ
constexpr std::string_view blocks_suffix = "_blocks";         // of gpt-oss

}  // namespace

bool StoredMatrix::is_e8m0(const io::TensorInfo& info) {
    return info.dtype == io::DType::f8_e8m0 || info.dtype == io::DType::u8;
}

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
    source_.read_bytes(tensor, io::bytes_of(MatrixView<std::int64_t>(sizes.data(), 1, 2)), 0, 0, sizeof sizes);
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
    source_.read_bytes(groups_of_columns_, io::bytes_of(MatrixView<std::int32_t>(of_columns.data(), 1, cols_)), 0, 0);
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

}  // namespace moesaic::model
