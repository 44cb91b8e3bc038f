#include "io/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "core/counted.hpp"
#include "io/json.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
using core::printable;
using core::require;

static_assert(std::endian::native == std::endian::little, "the format and this reader are little-endian");

struct DTypeRow {
    DType dtype;
    std::string_view name;
    int bits;
};

constexpr std::array dtypes = {
    DTypeRow{DType::f64, "F64", 64},        DTypeRow{DType::f32, "F32", 32},
    DTypeRow{DType::f16, "F16", 16},        DTypeRow{DType::bf16, "BF16", 16},
    DTypeRow{DType::f8_e4m3, "F8_E4M3", 8}, DTypeRow{DType::f8_e5m2, "F8_E5M2", 8},
    DTypeRow{DType::f8_e8m0, "F8_E8M0", 8}, DTypeRow{DType::f6_e2m3, "F6_E2M3", 6},
    DTypeRow{DType::f6_e3m2, "F6_E3M2", 6}, DTypeRow{DType::f4, "F4", 4},
    DTypeRow{DType::c64, "C64", 64},        DTypeRow{DType::i64, "I64", 64},
    DTypeRow{DType::u64, "U64", 64},        DTypeRow{DType::i32, "I32", 32},
    DTypeRow{DType::u32, "U32", 32},        DTypeRow{DType::i16, "I16", 16},
    DTypeRow{DType::u16, "U16", 16},        DTypeRow{DType::i8, "I8", 8},
    DTypeRow{DType::u8, "U8", 8},           DTypeRow{DType::boolean, "BOOL", 8},
};

constexpr bool rows_follow_enum() {
    for (std::size_t i = 0; i < dtypes.size(); ++i) {
        if (static_cast<std::size_t>(dtypes[i].dtype) != i) {
            return false;
        }
    }
    return true;
}
static_assert(rows_follow_enum(), "the table is indexed by the enumerator");

std::optional<DType> find_dtype(std::string_view name) {
    const auto* row = std::find_if(dtypes.begin(), dtypes.end(), [&](const DTypeRow& r) { return r.name == name; });
    return row == dtypes.end() ? std::nullopt : std::optional(row->dtype);
}

/// Checks one entry of the header. The offset is still relative to the data.
TensorInfo parse_tensor(const nlohmann::json& entry, const std::filesystem::path& file, const std::string& source) {
    TensorInfo info;
    info.file = file;
    const auto name = get<std::string>(entry, "dtype", source);
    const auto dtype = find_dtype(name);
    require(dtype.has_value(), ExitCode::corrupt_input,
            "{} has the unknown dtype '{}' (the safetensors format has no such type); get the file again", source,
            printable(name));
    info.dtype = *dtype;
    info.shape = get<std::vector<index_t>>(entry, "shape", source);
    const auto offsets = get<std::vector<index_t>>(entry, "data_offsets", source);
    require(offsets.size() == 2 && offsets[0] >= 0 && offsets[1] >= offsets[0], ExitCode::corrupt_input,
            "{} has invalid data_offsets (two ascending byte positions are expected); get the file again", source);
    info.offset = static_cast<std::uint64_t>(offsets[0]);
    info.bytes = static_cast<std::uint64_t>(offsets[1] - offsets[0]);

    const index_t count = detail::element_count(info.shape);
    index_t bits = 0;
    const bool fits = count >= 0 && !__builtin_mul_overflow(count, index_t{dtype_bits(info.dtype)}, &bits);
    require(fits, ExitCode::corrupt_input,
            "{} has an invalid shape (a dimension is negative or their product is too large); get the file again",
            source);
    require(bits % 8 == 0 && std::cmp_equal(bits / 8, info.bytes), ExitCode::corrupt_input,
            "{} has {} of data (its shape and dtype {} need {}); get the file again", source,
            core::counted(info.bytes, "byte"), name, bits / 8);
    return info;
}

std::map<std::string, std::string> parse_metadata(const nlohmann::json& entry, const std::string& source) {
    require(entry.is_object(), ExitCode::corrupt_input,
            "{}: can't use key '{}' (an object is expected); get the file again", source, detail::metadata_key);
    std::map<std::string, std::string> metadata;
    for (const auto& item : entry.items()) {
        metadata[item.key()] = get<std::string>(entry, item.key(), source);
    }
    return metadata;
}

/// The JSON text of the header, after its length was checked against the format and the file.
std::string read_header_text(const RandomAccessFile& file) {
    const std::string path = file.path().string();
    std::uint64_t length = 0;
    require(file.size() >= detail::length_bytes, ExitCode::corrupt_input,
            "{} is truncated (it has {} and a safetensors file has {} or more); get it again", path,
            core::counted(file.size(), "byte"), detail::length_bytes);
    file.read(0, std::as_writable_bytes(std::span(&length, 1)));
    require(length <= detail::max_header_bytes, ExitCode::corrupt_input,
            "{} is not a safetensors file (its header would have {} bytes and the format allows {}); check the path",
            path, length, detail::max_header_bytes);
    require(length <= file.size() - detail::length_bytes, ExitCode::corrupt_input,
            "{} is truncated (its header needs {} bytes and the file has {}); get it again", path,
            detail::length_bytes + length, file.size());
    std::string text(length, '\0');
    file.read(detail::length_bytes, std::as_writable_bytes(std::span(text)));
    require(!text.empty() && text.front() == '{', ExitCode::corrupt_input,
            "{} is not a safetensors file (its header doesn't start with an object); check the path", path);
    return text;
}

/// Tensors must follow each other without gap, from the first byte of the data to the last byte of the file.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, const std::string& path, std::uint64_t data_begin,
                    std::uint64_t file_size) {
    std::vector<const std::pair<const std::string, TensorInfo>*> order;
    order.reserve(tensors.size());
    for (const auto& tensor : tensors) {
        order.push_back(&tensor);
    }
    const auto key = [](const auto* tensor) { return std::pair(tensor->second.offset, tensor->second.bytes); };
    std::sort(order.begin(), order.end(), [&](const auto* a, const auto* b) { return key(a) < key(b); });
    std::uint64_t end = 0;
    for (const auto* tensor : order) {
        const std::uint64_t begin = tensor->second.offset;
        require(begin == end, ExitCode::corrupt_input,
                "{}: tensor '{}' begins at byte {} of the data (the one before ends at {}: {}); get the file again",
                path, printable(tensor->first), begin, end, begin < end ? "they overlap" : "there is a hole");
        end += tensor->second.bytes;
    }
    const std::uint64_t expected = data_begin + end;
    require(expected <= file_size, ExitCode::corrupt_input,
            "{} is truncated (its header describes {} bytes and the file has {}); download it again", path, expected,
            file_size);
    require(expected == file_size, ExitCode::corrupt_input,
            "{} is too long (its header describes {} bytes and the file has {}); download it again", path, expected,
            file_size);
}

}  // namespace

std::string_view dtype_name(DType dtype) noexcept {
    return dtypes[static_cast<std::size_t>(dtype)].name;
}

int dtype_bits(DType dtype) noexcept {
    return dtypes[static_cast<std::size_t>(dtype)].bits;
}

namespace detail {

index_t element_count(std::span<const index_t> shape) noexcept {
    index_t count = 1;
    for (const index_t extent : shape) {
        if (extent < 0 || __builtin_mul_overflow(count, extent, &count)) {
            return -1;
        }
    }
    return count;
}

SafetensorsHeader read_safetensors_header(const RandomAccessFile& file) {
    const std::string path = file.path().string();
    const std::string text = read_header_text(file);
    // A tensor takes about ten values; the limit keeps a header of brackets from filling the memory.
    const JsonLimits limits = {.bytes = max_header_bytes, .depth = 4, .values = std::size_t{8} << 20U};
    const nlohmann::json header = parse_json(text, path + " (header)", limits);

    SafetensorsHeader result;
    for (const auto& item : header.items()) {
        if (item.key() == metadata_key) {
            result.metadata = parse_metadata(item.value(), path);
        } else {
            const std::string source = path + ": tensor '" + printable(item.key()) + "'";
            result.tensors.emplace(item.key(), parse_tensor(item.value(), file.path(), source));
        }
    }
    const std::uint64_t data_begin = length_bytes + text.size();
    check_coverage(result.tensors, path, data_begin, file.size());
    for (auto& [name, info] : result.tensors) {
        info.offset += data_begin;
    }
    return result;
}

}  // namespace detail
}  // namespace moesaic::io
