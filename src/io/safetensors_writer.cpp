#include <algorithm>
#include <set>
#include <type_traits>

#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "io/safetensors_header.hpp"
#include "io/tensor_convert.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::printable;
using core::require;

/// Data begins at a multiple of this many bytes, so that a mapped file can be read in place.
constexpr std::size_t data_alignment = 8;

/// The header with its length in front, padded with spaces as the format asks for.
struct Header {
    std::string text;
    index_t data_bytes = 0;
};
Header make_header(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                   const std::map<std::string, std::string>& metadata) {
    nlohmann::json header = nlohmann::json::object();
    if (!metadata.empty()) {
        header[detail::metadata_key] = metadata;
    }
    index_t begin = 0;
    for (const TensorToWrite& tensor : tensors) {
        const index_t count = detail::element_count(tensor.shape);
        index_t bytes = 0;
        index_t end = 0;
        const bool fits = count >= 0 && !__builtin_mul_overflow(count, dtype_bits(tensor.dtype) / 8, &bytes) &&
                          !__builtin_add_overflow(begin, bytes, &end);
        require(fits && tensor.name != detail::metadata_key && !header.contains(tensor.name), ExitCode::runtime_failure,
                "can't write {} (tensor '{}' has an invalid shape or name, or comes twice); report this", file.string(),
                printable(tensor.name));
        header[tensor.name] = {
            {"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
        begin = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + data_alignment - 1) / data_alignment * data_alignment, ' ');
    require(text.size() <= detail::max_header_bytes, ExitCode::runtime_failure,
            "can't write {} (its header would have {} bytes and the format allows {}); split the tensors",
            file.string(), text.size(), detail::max_header_bytes);
    const std::uint64_t length = text.size();
    const auto length_field = std::as_bytes(std::span(&length, 1));
    std::string result(length_field.size(), '\0');
    std::copy(length_field.begin(), length_field.end(), std::as_writable_bytes(std::span(result)).begin());
    return {result + text, begin};
}

/// Reopens the closed file: all of its structure is checked, and that it holds the tensors asked for.
void verify(const std::filesystem::path& written, const std::filesystem::path& target,
            std::span<const TensorToWrite> tensors) {
    const TensorSource source = TensorSource::open_file(written);
    for (const TensorToWrite& tensor : tensors) {
        require(source.contains(tensor.name) && source.info(tensor.name).shape == tensor.shape,
                ExitCode::runtime_failure,
                "can't write {} (tensor '{}' is not in it when it is read back); check the disk", target.string(),
                printable(tensor.name));
    }
}

}  // namespace

template <class T>
void write_safetensors(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::function<void(std::size_t index, std::span<T> data)>& provide) {
    static_assert(sizeof(T) <= data_alignment && std::is_trivially_copyable_v<T>);
    std::vector<TensorToWrite> typed(tensors.begin(), tensors.end());
    for (TensorToWrite& tensor : typed) {
        tensor.dtype = detail::native_dtype<T>;
    }
    const Header header = make_header(file, typed, metadata);
    PartialFile partial(file);
    FileWriter writer(partial);
    writer.write(std::as_bytes(std::span(header.text)));
    core::Buffer<T> buffer;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto count = static_cast<std::size_t>(detail::element_count(tensors[i].shape));
        const std::span<T> data(buffer.reserve(count), count);
        provide(i, data);
        writer.write(std::as_bytes(data));
    }
    writer.close();
    verify(partial.path(), file, tensors);
    partial.commit();
}

void SharedTensorsWriter::create(const PartialFile& file, std::span<const TensorToWrite> tensors,
                                 const std::map<std::string, std::string>& metadata) {
    const Header header = make_header(file.target(), tensors, metadata);
    FileWriter writer(file);
    writer.write(std::as_bytes(std::span(header.text)));
    writer.reserve(header.text.size() + static_cast<std::uint64_t>(header.data_bytes));
    writer.close();
}

SharedTensorsWriter::SharedTensorsWriter(const std::filesystem::path& file)
    : tensors_(TensorSource::open_file(file)), writer_(file) {}

void SharedTensorsWriter::write_bytes(const std::string& name, core::MatrixView<const std::byte> bytes,
                                      index_t row_begin, index_t byte_begin) const {
    const TensorInfo& info = tensors_.info(name);
    require(row_begin >= 0 && byte_begin >= 0 && row_begin + bytes.rows() <= info.rows() &&
                byte_begin + bytes.cols() <= info.row_bytes(),
            ExitCode::runtime_failure, "can't write {} (a part of tensor '{}' lies outside of it); report this",
            tensors_.path().string(), printable(name));
    for (index_t row = 0; row < bytes.rows(); ++row) {
        writer_.write(info.offset + static_cast<std::uint64_t>((row_begin + row) * info.row_bytes() + byte_begin),
                      bytes.row(row));
    }
}

template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                const std::map<std::string, std::string>&,
                                const std::function<void(std::size_t, std::span<core::bf16>)>&);
template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                const std::map<std::string, std::string>&,
                                const std::function<void(std::size_t, std::span<float>)>&);

}  // namespace moesaic::io
