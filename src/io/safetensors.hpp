// Tensors in safetensors files, single or sharded with an index as Hugging Face publishes them. Format:
// https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, data without holes).
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "io/files.hpp"

namespace moesaic::io {

using core::index_t;

/// Element types of the format. Only f64, f32, f16, bf16 and f8_e4m3 are read as numbers.
enum class DType {
    f64,
    f32,
    f16,
    bf16,
    f8_e4m3,
    f8_e5m2,
    f8_e8m0,
    f6_e2m3,
    f6_e3m2,
    f4,
    c64,
    i64,
    u64,
    i32,
    u32,
    i16,
    u16,
    i8,
    u8,
    boolean,
};

/// Name in the header of a file, for example "BF16".
[[nodiscard]] std::string_view dtype_name(DType dtype) noexcept;
/// Whether TensorSource::read makes numbers of it.
[[nodiscard]] bool is_number(DType dtype) noexcept;
/// Bits of one element; 4 or 6 for the packed types.
[[nodiscard]] int dtype_bits(DType dtype) noexcept;

/// Where a tensor lies and what it is.
struct TensorInfo {
    DType dtype = DType::f32;
    std::vector<index_t> shape;
    std::filesystem::path file;
    std::uint64_t offset = 0;  ///< of the first element, from the start of the file
    std::uint64_t bytes = 0;

    /// The tensor as a matrix: the last dimension is the columns, all leading ones together the rows. A vector [n] is
    /// one row of n columns, a scalar 1 x 1.
    [[nodiscard]] index_t rows() const noexcept;
    [[nodiscard]] index_t cols() const noexcept;
    [[nodiscard]] index_t row_bytes() const noexcept;
};

/// A view of any elements as TensorSource::read_bytes takes it.
template <class T>
[[nodiscard]] core::MatrixView<std::byte> bytes_of(core::MatrixView<T> view) {
    constexpr auto size = static_cast<index_t>(sizeof(T));
    return {reinterpret_cast<std::byte*>(view.data()), view.rows(), view.cols() * size, view.stride() * size};
}

/// All tensors of one file or of a sharded model. Everything in the headers is checked on opening; a file that breaks
/// the format throws core::Error with ExitCode::corrupt_input. Reading is safe from several threads.
class TensorSource {
public:
    /// Whether the folder has what `open_model` looks for.
    [[nodiscard]] static bool is_model(const std::filesystem::path& folder);
    /// A model folder with `model.safetensors`, or `model.safetensors.index.json` and its shards.
    [[nodiscard]] static TensorSource open_model(const std::filesystem::path& folder);
    [[nodiscard]] static TensorSource open_file(const std::filesystem::path& file);

    [[nodiscard]] bool contains(const std::string& name) const;
    /// An unknown name throws with ExitCode::corrupt_input and says which name comes nearest.
    [[nodiscard]] const TensorInfo& info(const std::string& name) const;
    /// Names of all tensors, sorted.
    [[nodiscard]] std::vector<std::string> names() const;
    /// The `__metadata__` of the file; of shards, what they have together, the first one winning.
    [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
    /// A hash of all names, types and shapes, and of a few bytes of up to 256 tensors: the same for the same weights,
    /// whatever files hold them, and another one, most likely, for weights that were trained further.
    [[nodiscard]] std::uint64_t fingerprint() const;
    /// Of tensors, by `read` and `read_bytes` so far.
    [[nodiscard]] std::uint64_t bytes_read() const noexcept { return *bytes_read_; }
    /// The file or folder that was opened.
    [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

    /// Reads the block of `out.rows()` x `out.cols()` elements whose first is (`row_begin`, `col_begin`) of the tensor
    /// as a matrix (see TensorInfo) and converts it to T: bf16 (round to nearest even), float or double. Only the bytes
    /// of the block are read, plus small gaps between its rows. The tensor is taken as rows of `row_elements` elements;
    /// 0: its own rows. A block outside of the tensor or a dtype that is no floating point number throws with
    /// ExitCode::corrupt_input.
    template <class T>
    void read(const std::string& name, core::MatrixView<T> out, index_t row_begin = 0, index_t col_begin = 0,
              index_t row_elements = 0) const;
    /// The same for bytes as they are stored, of any dtype: codes of quantised weights, for example.
    void read_bytes(const std::string& name, core::MatrixView<std::byte> out, index_t row_begin, index_t byte_begin,
                    index_t row_bytes = 0) const;

private:
    struct Entry {
        TensorInfo info;
        std::shared_ptr<const RandomAccessFile> file;
    };

    void add_file(const std::filesystem::path& file);
    void add_shards(const std::filesystem::path& index);
    [[nodiscard]] const Entry& entry(const std::string& name) const;

    std::filesystem::path path_;
    std::map<std::string, Entry> entries_;
    std::map<std::string, std::string> metadata_;
    std::unique_ptr<std::atomic<std::uint64_t>> bytes_read_ = std::make_unique<std::atomic<std::uint64_t>>(0);
};

extern template void TensorSource::read(const std::string&, core::MatrixView<core::bf16>, index_t, index_t,
                                        index_t) const;
extern template void TensorSource::read(const std::string&, core::MatrixView<float>, index_t, index_t, index_t) const;
extern template void TensorSource::read(const std::string&, core::MatrixView<double>, index_t, index_t, index_t) const;

struct TensorToWrite {
    std::string name;
    std::vector<index_t> shape;
    DType dtype = DType::f32;  ///< where no type of elements says so
};

/// Writes a safetensors file with the tensors in the given order, all of type T (float or bf16). `provide(i, data)`
/// fills the elements of tensor i, row-major; only one tensor is in memory at a time. The file is complete, flushed to
/// the disk and checked by reading it back before it replaces `file`. The folder must exist.
template <class T>
void write_safetensors(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<void(std::size_t index, std::span<T> data)>& provide);

/// A safetensors file that several processes, and threads of them, fill together, by rectangles of bytes.
class SharedTensorsWriter {
public:
    /// For one of the processes: writes the header, and reserves the disk space of the tensors.
    static void create(const PartialFile& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata);
    /// Opens the PartialFile::path() of a file that was created.
    explicit SharedTensorsWriter(const std::filesystem::path& file);
    /// Writes rows of bytes of a tensor, as TensorSource::read_bytes reads them.
    void write_bytes(const std::string& name, core::MatrixView<const std::byte> bytes, index_t row_begin,
                     index_t byte_begin) const;
    /// Flushes what this process wrote to the disk.
    void close() { writer_.close(); }

private:
    TensorSource tensors_;
    RandomAccessWriter writer_;
};

extern template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                       const std::map<std::string, std::string>&,
                                       const std::function<void(std::size_t, std::span<core::bf16>)>&);
extern template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                       const std::map<std::string, std::string>&,
                                       const std::function<void(std::size_t, std::span<float>)>&);

}  // namespace moesaic::io
