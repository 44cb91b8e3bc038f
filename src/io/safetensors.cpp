#include "io/safetensors.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

#include "core/counted.hpp"
#include "io/json.hpp"
#include "io/safetensors_header.hpp"
#include "io/tensor_convert.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
using core::printable;
using core::require;

/// Bytes that one read takes at most; more rows of a block are read together up to here.
constexpr index_t scratch_bytes = index_t{1} << 20U;
/// Unwanted bytes between two rows up to which one read over both is cheaper than two.
constexpr index_t bridged_gap_bytes = index_t{16} << 10U;

/// Number of single-character edits between two names (Levenshtein distance).
std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
        }
    }
    return row.back();
}

/// Shards lie in the folder of their index: a name that leads elsewhere is an attack or an accident.
void check_shard_name(const std::string& name, const std::string& index) {
    const std::string_view suffix = ".safetensors";
    const bool plain = name.find_first_of("/\\") == std::string::npos && name.find('\0') == std::string::npos;
    require(plain && name.size() > suffix.size() && name.ends_with(suffix), ExitCode::corrupt_input,
            "{} names the shard '{}' (a file NAME.safetensors in the same folder is expected); get the index again",
            index, printable(name));
}

}  // namespace

bool is_number(DType dtype) noexcept {
    return detail::is_convertible(dtype);
}

index_t TensorInfo::rows() const noexcept {
    return shape.empty() ? 1 : detail::element_count(std::span(shape).first(shape.size() - 1));
}

index_t TensorInfo::cols() const noexcept {
    return shape.empty() ? 1 : shape.back();
}

index_t TensorInfo::row_bytes() const noexcept {
    return cols() * dtype_bits(dtype) / 8;
}

TensorSource TensorSource::open_file(const std::filesystem::path& file) {
    TensorSource source;
    source.path_ = file;
    source.add_file(file);
    return source;
}

namespace {

std::filesystem::path single_file(const std::filesystem::path& folder) {
    return folder / "model.safetensors";
}

std::filesystem::path index_of_shards(const std::filesystem::path& folder) {
    return folder / "model.safetensors.index.json";
}

bool is_there(const std::filesystem::path& file) {
    std::error_code error;
    return std::filesystem::exists(file, error);
}

}  // namespace

bool TensorSource::is_model(const std::filesystem::path& folder) {
    return is_there(single_file(folder)) || is_there(index_of_shards(folder));
}

TensorSource TensorSource::open_model(const std::filesystem::path& folder) {
    TensorSource source;
    source.path_ = folder;
    if (is_there(single_file(folder))) {
        source.add_file(single_file(folder));
        return source;
    }
    require(
        is_there(index_of_shards(folder)), ExitCode::usage,
        "can't read the model {} (it has neither model.safetensors nor model.safetensors.index.json); check the path, "
        "or convert the weights to safetensors",
        folder.string());
    source.add_shards(index_of_shards(folder));
    return source;
}

void TensorSource::add_shards(const std::filesystem::path& index) {
    const std::string index_name = index.string();
    const auto weight_map = get<nlohmann::json>(read_json(index), "weight_map", index_name);
    require(weight_map.is_object() && !weight_map.empty(), ExitCode::corrupt_input,
            "{} names no tensors (weight_map is empty or no object); get it again", index_name);
    std::set<std::string> shards;
    for (const auto& item : weight_map.items()) {
        const auto shard = get<std::string>(weight_map, item.key(), index_name);
        if (shards.insert(shard).second) {
            check_shard_name(shard, index_name);
        }
    }
    for (const auto& shard : shards) {
        const std::filesystem::path file = index.parent_path() / shard;
        std::error_code error;
        require(std::filesystem::exists(file, error), ExitCode::corrupt_input,
                "the model is incomplete ({} is missing and {} names it); download it again", file.string(),
                index_name);
        add_file(file);
    }
    for (const auto& item : weight_map.items()) {
        const auto found = entries_.find(item.key());
        const auto shard = item.value().get<std::string>();
        require(found != entries_.end() && found->second.info.file.filename() == shard, ExitCode::corrupt_input,
                "{} says that tensor '{}' is in {} (it is not there); download index and shards again", index_name,
                printable(item.key()), shard);
    }
}

void TensorSource::add_file(const std::filesystem::path& file) {
    const auto opened = std::make_shared<const RandomAccessFile>(file);
    auto header = detail::read_safetensors_header(*opened);
    for (auto& [name, info] : header.tensors) {
        const auto [entry, inserted] = entries_.try_emplace(name, Entry{std::move(info), opened});
        require(inserted, ExitCode::corrupt_input,
                "tensor '{}' is stored twice (in {} and {}); download the model again", printable(name),
                entry->second.info.file.string(), file.string());
    }
    metadata_.merge(header.metadata);
}

bool TensorSource::contains(const std::string& name) const {
    return entries_.contains(name);
}

const TensorInfo& TensorSource::info(const std::string& name) const {
    return entry(name).info;
}

std::vector<std::string> TensorSource::names() const {
    std::vector<std::string> result;
    result.reserve(entries_.size());
    for (const auto& [name, unused] : entries_) {
        result.push_back(name);
    }
    return result;
}

const TensorSource::Entry& TensorSource::entry(const std::string& name) const {
    if (const auto found = entries_.find(name); found != entries_.end()) {
        return found->second;
    }
    const std::string* nearest = nullptr;
    std::size_t distance = name.size();
    for (const auto& [candidate, unused] : entries_) {
        if (const std::size_t d = edit_distance(name, candidate); d < distance) {
            distance = d;
            nearest = &candidate;
        }
    }
    const std::string hint =
        nearest == nullptr ? "none has a similar name" : "the nearest name is '" + printable(*nearest) + "'";
    fail(ExitCode::corrupt_input, "{} has no tensor '{}' ({}, {}); check that this is the right model", path_.string(),
         printable(name), core::counted(entries_.size(), "tensor"), hint);
}

void TensorSource::read_bytes(const std::string& name, core::MatrixView<std::byte> out, index_t row_begin,
                              index_t byte_begin, index_t row_bytes) const {
    const Entry& source = entry(name);
    row_bytes = row_bytes > 0 ? row_bytes : source.info.row_bytes();
    const index_t rows = row_bytes > 0 ? static_cast<index_t>(source.info.bytes) / row_bytes : source.info.rows();
    const bool inside = row_begin >= 0 && byte_begin >= 0 && row_begin <= rows && out.rows() <= rows - row_begin &&
                        byte_begin <= row_bytes && out.cols() <= row_bytes - byte_begin;
    require(
        inside, ExitCode::corrupt_input,
        "{}: tensor '{}' is too small (it is {} rows of {} bytes, {} of {} from row {} and byte {} are wanted); check "
        "that its shape fits config.json",
        source.info.file.string(), printable(name), rows, row_bytes, out.rows(), out.cols(), row_begin, byte_begin);
    const auto position = [&](index_t row) {
        return source.info.offset + static_cast<std::uint64_t>((row_begin + row) * row_bytes + byte_begin);
    };
    if (out.empty()) {
        return;
    }
    *bytes_read_ += static_cast<std::uint64_t>(out.rows() * out.cols());
    if (out.rows() == 1 || (out.cols() == row_bytes && out.stride() == row_bytes)) {
        source.file->read(position(0), {out.data(), static_cast<std::size_t>(out.rows() * out.cols())});
        return;
    }
    // As many rows at once as lie close together and fit into the scratch memory.
    const bool bridge = row_bytes - out.cols() <= bridged_gap_bytes;
    const index_t batch = bridge ? std::clamp<index_t>(scratch_bytes / row_bytes, 1, out.rows()) : 1;
    std::vector<std::byte> scratch(batch > 1 ? static_cast<std::size_t>((batch - 1) * row_bytes + out.cols()) : 0);
    for (index_t row = 0; row < out.rows(); row += batch) {
        const index_t height = std::min(batch, out.rows() - row);
        if (height == 1) {
            source.file->read(position(row), out.row(row));
            continue;
        }
        source.file->read(position(row),
                          std::span(scratch).first(static_cast<std::size_t>((height - 1) * row_bytes + out.cols())));
        for (index_t i = 0; i < height; ++i) {
            std::copy_n(scratch.data() + i * row_bytes, out.cols(), out[row + i]);
        }
    }
}

std::uint64_t TensorSource::fingerprint() const {
    constexpr std::size_t most_samples = 256;
    constexpr std::uint64_t sample_bytes = 64;
    const std::size_t every = (entries_.size() + most_samples - 1) / most_samples;
    std::uint64_t hash = 0;
    const auto add = [&hash](const void* bytes, std::size_t count) { hash = XXH3_64bits_withSeed(bytes, count, hash); };
    std::size_t number = 0;
    for (const auto& [name, entry] : entries_) {
        const TensorInfo& info = entry.info;
        add(name.data(), name.size());
        add(&info.dtype, sizeof info.dtype);
        add(info.shape.data(), info.shape.size() * sizeof(index_t));
        if (number++ % every == 0) {
            std::array<std::byte, sample_bytes> sample{};
            const std::uint64_t count = std::min(sample_bytes, info.bytes);
            entry.file->read(info.offset + (info.bytes - count) / 2, std::span(sample).first(count));
            add(sample.data(), count);
        }
    }
    return hash;
}

template <class T>
void TensorSource::read(const std::string& name, core::MatrixView<T> out, index_t row_begin, index_t col_begin,
                        index_t row_elements) const {
    const TensorInfo& info = entry(name).info;
    const index_t all_cols = row_elements > 0 ? row_elements : info.cols();
    const index_t all_rows = row_elements > 0 ? info.rows() * info.cols() / row_elements : info.rows();
    const bool inside = row_begin >= 0 && col_begin >= 0 && out.rows() >= 0 && out.cols() >= 0 &&
                        row_begin <= all_rows && out.rows() <= all_rows - row_begin && col_begin <= all_cols &&
                        out.cols() <= all_cols - col_begin;
    require(inside, ExitCode::corrupt_input,
            "{}: tensor '{}' is too small (it is {} x {}, {} x {} from row {} and column {} is wanted); check that its "
            "shape fits config.json",
            info.file.string(), printable(name), all_rows, all_cols, out.rows(), out.cols(), row_begin, col_begin);
    require(is_number(info.dtype), ExitCode::corrupt_input,
            "{}: tensor '{}' has dtype {} (F64, F32, F16, BF16 or F8_E4M3 is expected); convert the model",
            info.file.string(), printable(name), dtype_name(info.dtype));
    const index_t element = dtype_bits(info.dtype) / 8;
    const index_t row_bytes = all_cols * element;
    if (info.dtype == detail::native_dtype<T>) {
        read_bytes(name, bytes_of(out), row_begin, col_begin * element, row_bytes);
        return;
    }
    // Pieces that fit into the scratch memory.
    const index_t width = std::clamp<index_t>(scratch_bytes / element, 1, std::max<index_t>(out.cols(), 1));
    const index_t height = std::max<index_t>(scratch_bytes / (width * element), 1);
    std::vector<std::byte> scratch(static_cast<std::size_t>(std::min(height, out.rows()) * width * element));
    for (index_t col = 0; col < out.cols(); col += width) {
        const index_t cols = std::min(width, out.cols() - col);
        for (index_t row = 0; row < out.rows(); row += height) {
            const core::MatrixView<std::byte> piece(scratch.data(), std::min(height, out.rows() - row), cols * element);
            read_bytes(name, piece, row_begin + row, (col_begin + col) * element, row_bytes);
            for (index_t i = 0; i < piece.rows(); ++i) {
                detail::convert_elements(info.dtype, piece[i], out[row + i] + col, static_cast<std::size_t>(cols));
            }
        }
    }
}

template void TensorSource::read(const std::string&, core::MatrixView<core::bf16>, index_t, index_t, index_t) const;
template void TensorSource::read(const std::string&, core::MatrixView<float>, index_t, index_t, index_t) const;
template void TensorSource::read(const std::string&, core::MatrixView<double>, index_t, index_t, index_t) const;

}  // namespace moesaic::io
