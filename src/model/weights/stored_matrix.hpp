// One matrix of a checkpoint as its files hold it: numbers, or the codes, scales and zero points that programs which
// quantise write. Layouts and where they are described: docs/formats.md.
#pragma once

#include "core/matrix.hpp"
#include "io/safetensors.hpp"
#include "model/families/quantisation.hpp"
#include "ops/weights/coded_rows.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::model {

using core::MatrixView;

/// A matrix [rows, cols], or several of one shape below each other, as fused experts are. Slices may begin anywhere.
class StoredMatrix {
public:
    /// Finds the tensors of `name`: "MODULE.weight", or that of fused experts. Nothing if there are none. Throws a
    /// core::Error that names the tensor for one of a kind that is not read, and for scales or zero points that are
    /// missing or do not fit.
    [[nodiscard]] static std::optional<StoredMatrix> find(const io::TensorSource& source,
                                                          const Quantisation& quantisation, const std::string& name);
    /// The name to find a matrix by that has this tensor as its numbers or codes; nothing for scales and others.
    [[nodiscard]] static std::optional<std::string> name_of(const std::string& tensor);

    /// Of all matrices together.
    [[nodiscard]] index_t rows() const noexcept { return count_ * rows_; }
    [[nodiscard]] index_t cols() const noexcept { return cols_; }
    /// The format that holds the elements as they are; nothing if none does.
    [[nodiscard]] std::optional<ops::WeightFormat> format() const noexcept { return format_; }
    [[nodiscard]] bool is_coded() const noexcept { return packing_ != Packing::numbers; }
    /// Whether the codes from a column on can be packed without those before it.
    [[nodiscard]] bool can_begin_at(index_t col) const noexcept {
        return col % ops::kernel_block == 0 || group_.cols >= cols_;
    }
    /// All tensors that it consists of, numbers or codes first.
    [[nodiscard]] const std::vector<std::string>& tensors() const noexcept { return tensors_; }

    /// Reads the block of out.rows() x out.cols() weights whose first is (row, col), rounded once to Scalar. Numbers
    /// may be infinite or NaN, scales may not.
    template <class Scalar>
    void read(index_t row, index_t col, MatrixView<Scalar> out) const;
    /// The same as codes of `format()`, which must be coded, from a column on where `can_begin_at`.
    [[nodiscard]] ops::CodedRows read_codes(index_t row, index_t col, index_t rows, index_t cols) const;

private:
    /// How codes lie in their tensor.
    enum class Packing : std::uint8_t {
        numbers,       ///< not at all: elements are numbers
        bytes,         ///< [rows, cols]
        nibbles,       ///< two in a byte along a row, the lower half first
        words_down,    ///< [cols / codes of a word, rows], lowest bits first: GPTQ
        words_across,  ///< [cols, rows / 8], in the order of AWQ
    };
    enum class ZeroPacking : std::uint8_t {
        none,
        bytes,         ///< [rows, groups], signed
        words_down,    ///< [rows / codes of a word, groups]: compressed-tensors
        words_across,  ///< [groups, rows / codes of a word]: GPTQ
        words_of_awq,  ///< the same in the order of AWQ
    };

    StoredMatrix(const io::TensorSource& source, const Quantisation& quantisation);

    void use_numbers(const std::string& name);
    void use_bytes(const std::string& name, ops::WeightFormat codes);
    void use_packed(const std::string& base);
    void use_nvfp4(const std::string& base, const std::string& codes, const std::string& common, bool is_inverse);
    void use_words(const std::string& base);
    void use_blocks(const std::string& name);

    /// Rows and columns of a packed matrix as a tensor says them, if it is there.
    [[nodiscard]] std::optional<std::array<std::int64_t, 2>> packed_sizes(const std::string& tensor) const;

    /// Takes the tensor as that of codes, with the shape of one matrix.
    void set_codes(const std::string& tensor, Packing packing, ops::WeightFormat codes, index_t rows, index_t cols);
    void set_scales(const std::vector<std::string>& names, bool transposed = false);
    void set_zeros(const std::string& tensor, ZeroPacking packing);
    void set_common_scale(const std::string& tensor, bool is_inverse);
    void set_column_groups(const std::string& tensor);
    /// The group of each column; empty if they follow each other.
    [[nodiscard]] std::vector<std::int32_t> read_column_groups() const;
    /// Decides format() once all is known.
    void settle();

    /// Groups of `by` that `size` elements begin.
    [[nodiscard]] static constexpr index_t divided(index_t size, index_t by) noexcept { return (size + by - 1) / by; }
    /// Whether a tensor holds powers of two: E8M0, which older files call bytes.
    [[nodiscard]] static bool is_e8m0(const io::TensorInfo& info);
    [[nodiscard]] index_t codes_of_word() const noexcept { return 32 / bits_; }
    [[nodiscard]] const io::TensorInfo& require_tensor(const std::string& tensor) const;
    [[noreturn]] void fail_shape(const std::string& tensor, const std::string& expected) const;
    [[noreturn]] void fail_values(const std::string& tensor, const std::string& what) const;

    /// A rectangle of scales or zero points: those of rows [row, row + rows) and of groups [first, first + groups).
    struct GroupValues {
        index_t first_row = 0;
        index_t first_group = 0;
        core::Matrix<float> values;
    };
    [[nodiscard]] index_t group_of(index_t col) const;
    [[nodiscard]] index_t scale_row_of(index_t row) const;
    [[nodiscard]] GroupValues read_scales(index_t row, index_t rows, index_t first_group, index_t groups) const;
    [[nodiscard]] GroupValues read_zeros(index_t row, index_t rows, index_t first_group, index_t groups) const;
    void read_code_bytes(index_t row, index_t col, MatrixView<std::uint8_t> out) const;
    [[nodiscard]] ops::CodedRows read_coded(index_t row, index_t col, index_t rows, index_t cols,
                                            index_t columns_of_scale) const;

    const io::TensorSource& source_;
    const Quantisation& quantisation_;
    std::vector<std::string> tensors_;
    index_t count_ = 1;
    index_t rows_ = 0;  ///< of one matrix
    index_t cols_ = 0;
    std::optional<ops::WeightFormat> format_;

    Packing packing_ = Packing::numbers;
    ops::WeightFormat codes_ = {};
    index_t bits_ = 8;
    std::string scales_;
    bool scales_transposed_ = false;
    ScaleGroup group_;  ///< with all sizes positive
    std::string zeros_;
    ZeroPacking zero_packing_ = ZeroPacking::none;
    std::string groups_of_columns_;            ///< a tensor, or empty
    std::vector<std::int32_t> column_groups_;  ///< empty: columns follow each other
    float common_scale_ = 1;
};

}  // namespace moesaic::model
