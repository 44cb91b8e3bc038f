#include "io/safetensors.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "io/json.hpp"
#include "io/safetensors_header.hpp"
#include "io/tensor_convert.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
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

index_t TensorInfo::rows() const noexcept {
    return shape.empty() ? 1 : detail::element_count(std::span(shape).first(shape.size() - 1));
}

index_t TensorInfo::cols() const noexcept {
    return shape.empty() ? 1 : shape.back();
}

TensorSource TensorSource::open_file(const std::filesystem::path& file) {
    TensorSource source;
    source.path_ = file;
    source.add_file(file);
    return source;
}

TensorSource TensorSource::open_model(const std::filesystem::path& folder) {
    TensorSource source;
    source.path_ = folder;
    const std::filesystem::path single = folder / "model.safetensors";
    const std::filesystem::path index = folder / "model.safetensors.index.json";
    std::error_code error;
    if (std::filesystem::exists(single, error)) {
        source.add_file(single);
        return source;
    }
    require(
        std::filesystem::exists(index, error), ExitCode::usage,
        "can't read the model {} (it has neither model.safetensors nor model.safetensors.index.json); check the path, "
        "or convert the weights to safetensors",
        folder.string());
    source.add_shards(index);
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
    fail(ExitCode::corrupt_input, "{} has no tensor '{}' ({} tensors, {}); check that this is the right model",
         path_.string(), printable(name), entries_.size(), hint);
}

template <class T>
void TensorSource::read(const std::string& name, core::MatrixView<T> out, index_t row_begin, index_t col_begin) const {
    const Entry& source = entry(name);
    const TensorInfo& info = source.info;
    const bool inside = row_begin >= 0 && col_begin >= 0 && out.rows() >= 0 && out.cols() >= 0 &&
                        row_begin <= info.rows() && out.rows() <= info.rows() - row_begin && col_begin <= info.cols() &&
                        out.cols() <= info.cols() - col_begin;
    require(inside, ExitCode::corrupt_input,
            "{}: tensor '{}' is too small (it is {} x {}, {} x {} from row {} and column {} is wanted); check that its "
            "shape fits config.json",
            info.file.string(), printable(name), info.rows(), info.cols(), out.rows(), out.cols(), row_begin,
            col_begin);
    require(detail::is_convertible(info.dtype), ExitCode::corrupt_input,
            "{}: tensor '{}' has dtype {} (F64, F32, F16, BF16 or F8_E4M3 is expected); convert the model",
            info.file.string(), printable(name), dtype_name(info.dtype));
    if (out.empty()) {
        return;
    }
    const index_t element = dtype_bits(info.dtype) / 8;
    const index_t row_bytes = info.cols() * element;
    const auto position = [&](index_t row, index_t col) {
        return info.offset + static_cast<std::uint64_t>((row_begin + row) * row_bytes + (col_begin + col) * element);
    };
    const bool whole_rows = out.rows() == 1 || (out.cols() == info.cols() && out.stride() == out.cols());
    if (info.dtype == detail::native_dtype<T> && whole_rows) {
        const auto count = static_cast<std::size_t>(out.rows() * out.cols());
        source.file->read(position(0, 0), std::as_writable_bytes(std::span(out.data(), count)));
        return;
    }
    // Pieces of columns that fit into the scratch memory; of each, as many rows at once as fit and lie close together.
    const index_t piece = std::min(out.cols(), scratch_bytes / element);
    const bool bridge = row_bytes - piece * element <= bridged_gap_bytes;
    const index_t batch = bridge ? std::clamp<index_t>(scratch_bytes / row_bytes, 1, out.rows()) : 1;
    std::vector<std::byte> scratch(static_cast<std::size_t>((batch - 1) * row_bytes + piece * element));
    for (index_t col = 0; col < out.cols(); col += piece) {
        const index_t width = std::min(piece, out.cols() - col);
        for (index_t row = 0; row < out.rows(); row += batch) {
            const index_t height = std::min(batch, out.rows() - row);
            const auto bytes = static_cast<std::size_t>((height - 1) * row_bytes + width * element);
            source.file->read(position(row, col), std::span(scratch).first(bytes));
            for (index_t i = 0; i < height; ++i) {
                detail::convert_elements(info.dtype, scratch.data() + i * row_bytes, out[row + i] + col,
                                         static_cast<std::size_t>(width));
            }
        }
    }
}

template void TensorSource::read(const std::string&, core::MatrixView<core::bf16>, index_t, index_t) const;
template void TensorSource::read(const std::string&, core::MatrixView<float>, index_t, index_t) const;
template void TensorSource::read(const std::string&, core::MatrixView<double>, index_t, index_t) const;

}  // namespace moesaic::io
