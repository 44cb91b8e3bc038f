// Safetensors files made by hand.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "support.hpp"

namespace moesaic::io::test {

/// The file format: header length, header, data.
[[nodiscard]] inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    return bytes.append(header).append(data);
}

/// The bytes of elements as they lie in a file.
template <class Scalar>
[[nodiscard]] std::string bytes_of(std::span<const Scalar> values) {
    std::string bytes(values.size_bytes(), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

}  // namespace moesaic::io::test
