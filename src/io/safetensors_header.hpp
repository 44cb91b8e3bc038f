// Header of one safetensors file, checked against the size of the file. Private to src/io.
#pragma once

#include <map>
#include <string>

#include "io/safetensors.hpp"

namespace moesaic::io::detail {

struct SafetensorsHeader {
    std::map<std::string, TensorInfo> tensors;
    std::map<std::string, std::string> metadata;
};

/// Largest header that the format allows, in bytes.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;
/// Bytes in front of the header that hold its length.
inline constexpr std::uint64_t length_bytes = 8;
/// The key of the header that holds texts instead of a tensor.
inline constexpr const char* metadata_key = "__metadata__";

/// Reads and checks everything that the format demands: known types, shapes that match the byte ranges, ranges that
/// cover the data without overlap or hole, and a file of exactly that size.
[[nodiscard]] SafetensorsHeader read_safetensors_header(const RandomAccessFile& file);

/// Elements of a tensor, or -1 if a dimension is negative or the product does not fit.
[[nodiscard]] index_t element_count(std::span<const index_t> shape) noexcept;

}  // namespace moesaic::io::detail
