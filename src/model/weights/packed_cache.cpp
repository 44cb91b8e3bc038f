#include "model/weights/packed_cache.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <map>

namespace moesaic::model {
namespace {

using core::ExitCode;

constexpr const char* version = "1";  // of blocks and of what lies in them
constexpr const char* checksums_suffix = ".checksums";

/// A projection of the routed experts of a layer, and the format that it is held in.
struct Cached {
    const ProjectionPlan& projection;
    ops::WeightFormat format;
};

/// Those of all layers, which must outlive them.
template <class Scalar>
std::vector<Cached> cached_of(const std::vector<LayerPlan>& layers) {
    std::vector<Cached> all;
    for (const LayerPlan& layer : layers) {
        for (const ProjectionPlan& projection : layer.feed_forward.projections) {
            if (projection.is_routed()) {
                all.push_back({projection, ops::format_for<Scalar>(projection.stored)});
            }
        }
    }
    return all;
}

/// Its blocks, and their checksums.
std::array<io::TensorToWrite, 2> tensors_of(const Cached& cached) {
    const ProjectionPlan& projection = cached.projection;
    const index_t rows = projection.count() * ops::blocks_of(projection.out);
    const index_t cols = ops::blocks_of(projection.in);
    return {{{projection.name, {rows, cols * ops::facts_of(cached.format).block_bytes}, io::DType::u8},
             {projection.name + checksums_suffix, {rows, cols}, io::DType::u64}}};
}

/// The metadata of the file.
std::map<std::string, std::string> describe(const std::vector<Cached>& all, std::uint64_t fingerprint) {
    std::vector<std::string> formats;
    for (const Cached& cached : all) {
        const std::string name(ops::facts_of(cached.format).name);
        if (std::find(formats.begin(), formats.end(), name) == formats.end()) {
            formats.push_back(name);
        }
    }
    return {{"format", "moesaic packed weights"},
            {"version", version},
            {"weights", core::joined(formats)},
            {"fingerprint", fmt::format("{:016x}", fingerprint)}};
}

/// The checksums of blocks.
core::Matrix<std::uint64_t> checksums_of(MatrixView<const std::byte> blocks, index_t block_bytes) {
    core::Matrix<std::uint64_t> sums(blocks.rows(), blocks.cols() / block_bytes);
    for (index_t row = 0; row < sums.rows(); ++row) {
        for (index_t col = 0; col < sums.cols(); ++col) {
            sums.view()(row, col) = XXH3_64bits(blocks[row] + col * block_bytes, static_cast<std::size_t>(block_bytes));
        }
    }
    return sums;
}

constexpr auto checksum_bytes = static_cast<index_t>(sizeof(std::uint64_t));

}  // namespace

template <class Scalar>
void PackedCache<Scalar>::create(const io::PartialFile& file, const std::vector<LayerPlan>& layers,
                                 std::uint64_t fingerprint) {
    const std::vector<Cached> all = cached_of<Scalar>(layers);
    std::vector<io::TensorToWrite> tensors;
    for (const Cached& cached : all) {
        const auto of_projection = tensors_of(cached);
        tensors.insert(tensors.end(), of_projection.begin(), of_projection.end());
    }
    io::SharedTensorsWriter::create(file, tensors, describe(all, fingerprint));
}

template <class Scalar>
PackedCache<Scalar>::PackedCache(const WeightSource<Scalar>& source, const std::vector<LayerPlan>& layers, Use use,
                                 const std::filesystem::path& path)
    : source_(source), use_(use) {
    if (use == Use::read) {
        stored_.emplace(io::TensorSource::open_file(path));
        check(layers);
    } else if (use == Use::write) {
        writer_.emplace(path);
    }
    for (const auto& [projection, format] : cached_of<Scalar>(layers)) {
        for (index_t e = 0; e < projection.count(); ++e) {
            places_[projection.modules[static_cast<std::size_t>(e)] + ".weight"] = {projection.name,
                                                                                    e * ops::blocks_of(projection.out)};
        }
    }
}

template <class Scalar>
void PackedCache<Scalar>::check(const std::vector<LayerPlan>& layers) const {
    const std::string file = stored_->path().string();
    const std::vector<Cached> all = cached_of<Scalar>(layers);
    for (const auto& [key, expected] : describe(all, source_.fingerprint())) {
        const auto found = stored_->metadata().find(key);
        const std::string value = found == stored_->metadata().end() ? "missing" : core::printable(found->second, 80);
        core::require(value == expected, ExitCode::usage,
                      "{}: {} is {} (this run asks for {}), so it is the cache of another model, format or version; "
                      "remove the file or set another model.cache",
                      file, key, value, expected);
    }
    for (const Cached& cached : all) {
        for (const io::TensorToWrite& tensor : tensors_of(cached)) {
            core::require(stored_->contains(tensor.name) && stored_->info(tensor.name).dtype == tensor.dtype &&
                              stored_->info(tensor.name).shape == tensor.shape,
                          ExitCode::usage,
                          "{}: tensor {} is missing or has another shape (it is the cache of other sizes or layers); "
                          "remove the file or set another model.cache",
                          file, core::printable(tensor.name));
        }
    }
}

template <class Scalar>
void PackedCache<Scalar>::fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const {
    const auto found = places_.find(name);
    const bool is_aligned = part.row_begin % ops::kernel_block == 0 && part.col_begin % ops::kernel_block == 0;
    if (found == places_.end() || use_ == Use::pass) {
        source_.fill(name, part, out);
        return;
    }
    core::require(
        is_aligned, ExitCode::usage,
        "model.cache can't hold {} (a rank's slice of it is no whole number of blocks of 32); use fewer ranks "
        "per tensor group, or no cache",
        core::printable(name));
    const index_t block_bytes = ops::facts_of(out.format()).block_bytes;
    const Place& place = found->second;
    const index_t row = place.first_row + part.row_begin / ops::kernel_block;
    const index_t col = part.col_begin / ops::kernel_block;
    if (use_ == Use::read) {
        read_blocks(place, row, col, out);
        source_.mark_read_elsewhere(name);
        return;
    }
    source_.fill(name, part, out);
    core::Matrix<std::uint64_t> sums = checksums_of(out.blocks(), block_bytes);
    writer_->write_bytes(place.tensor, out.blocks(), row, col * block_bytes);
    writer_->write_bytes(place.tensor + checksums_suffix, io::bytes_of(sums.view()), row, col * checksum_bytes);
}

template <class Scalar>
void PackedCache<Scalar>::read_blocks(const Place& place, index_t block_row, index_t block_col,
                                      const ops::PackedMatrix& out) const {
    const index_t block_bytes = ops::facts_of(out.format()).block_bytes;
    const MatrixView<std::byte> blocks = out.blocks();
    stored_->read_bytes(place.tensor, blocks, block_row, block_col * block_bytes);
    core::Matrix<std::uint64_t> expected(blocks.rows(), blocks.cols() / block_bytes);
    stored_->read_bytes(place.tensor + checksums_suffix, io::bytes_of(expected.view()), block_row,
                        block_col * checksum_bytes);
    const core::Matrix<std::uint64_t> found = checksums_of(blocks, block_bytes);
    core::require(std::equal(found.flat().begin(), found.flat().end(), expected.flat().begin()),
                  ExitCode::corrupt_input,
                  "{}: blocks of tensor {} are damaged (their checksums differ); remove the file, it is made again",
                  stored_->path().string(), core::printable(place.tensor));
}

template <class Scalar>
std::uint64_t PackedCache<Scalar>::bytes_read() const {
    return source_.bytes_read() + (stored_ ? stored_->bytes_read() : 0);
}

template <class Scalar>
void PackedCache<Scalar>::close() {
    if (writer_) {
        writer_->close();
    }
}

template class PackedCache<core::bf16>;
template class PackedCache<float>;

}  // namespace moesaic::model
