// Safetensors files as bytes of any dtype, for tests that change them.
#pragma once

#include "io/safetensors.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace moesaic::test {

struct RawTensor {
    std::string dtype;
    std::vector<core::index_t> shape;
    std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

[[nodiscard]] inline RawTensors read_raw(const std::filesystem::path& file) {
    const io::TensorSource source = io::TensorSource::open_file(file);
    RawTensors tensors;
    for (const std::string& name : source.names()) {
        const io::TensorInfo& info = source.info(name);
        RawTensor& tensor = tensors[name];
        tensor = {std::string(io::dtype_name(info.dtype)), info.shape, std::string(info.bytes, '\0')};
        const auto size = static_cast<core::index_t>(info.bytes);
        source.read_bytes(name, {reinterpret_cast<std::byte*>(tensor.bytes.data()), 1, size}, 0, 0, size);
    }
    return tensors;
}

inline void write_raw(const std::filesystem::path& file, const RawTensors& tensors) {
    nlohmann::json header;
    std::uint64_t offset = 0;
    for (const auto& [name, tensor] : tensors) {
        header[name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes.size()}}};
        offset += tensor.bytes.size();
    }
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out << text;
    for (const auto& [name, tensor] : tensors) {
        out << tensor.bytes;
    }
}

}  // namespace moesaic::test
