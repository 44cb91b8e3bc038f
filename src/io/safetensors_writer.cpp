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
template <class T>
std::string make_header(const std::filesystem::path& file, std::span<const TensorToWrite> tensors,
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
        const bool fits = count >= 0 && !__builtin_mul_overflow(count, index_t{sizeof(T)}, &bytes) &&
                          !__builtin_add_overflow(begin, bytes, &end);
        require(fits && tensor.name != detail::metadata_key && !header.contains(tensor.name), ExitCode::runtime_failure,
                "can't write {} (tensor '{}' has an invalid shape or name, or comes twice); report this", file.string(),
                printable(tensor.name));
        header[tensor.name] = {
            {"dtype", dtype_name(detail::native_dtype<T>)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
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
    return result + text;
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
    const std::string header = make_header<T>(file, tensors, metadata);
    PartialFile partial(file);
    FileWriter writer(partial);
    writer.write(std::as_bytes(std::span(header)));
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

template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                const std::map<std::string, std::string>&,
                                const std::function<void(std::size_t, std::span<core::bf16>)>&);
template void write_safetensors(const std::filesystem::path&, std::span<const TensorToWrite>,
                                const std::map<std::string, std::string>&,
                                const std::function<void(std::size_t, std::span<float>)>&);

}  // namespace moesaic::io
