#include <algorithm>
#include <array>
#include <numeric>

#include "core/error.hpp"
#include "io/files.hpp"
#include "io/hdf5.hpp"
#include "io/safetensors_header.hpp"

namespace moesaic::io::hdf5 {
namespace {

using core::ExitCode;
using core::printable;
using core::require;

/// Elements of a chunk: one MiB, large enough for the disk and small enough for HDF5's buffers.
constexpr std::size_t chunk_elements = std::size_t{1} << 18U;
/// Larger chunks than this, in bytes, were not written by us and would make HDF5 allocate as much.
constexpr std::uint64_t max_chunk_bytes = std::uint64_t{16} << 20U;
/// What the Fletcher32 filter adds to a chunk, in bytes.
constexpr std::uint64_t checksum_bytes = 4;
constexpr int max_rank = 8;
/// H5S_ALL, whose macro is an old-style cast.
constexpr hid_t whole_extent = 0;

using Extents = std::array<hsize_t, max_rank>;

std::uint64_t product(std::span<const hsize_t> extents) {
    return std::accumulate(extents.begin(), extents.end(), std::uint64_t{1}, std::multiplies<>());
}

/// The extents of a dataset, or nothing if it is not a fixed-size array of one to eight dimensions.
std::vector<index_t> read_shape(hid_t dataset, std::string_view name, const Context& context) {
    const DataSpace space(check(H5Dget_space(dataset), context, name));
    const int rank = H5Sget_simple_extent_type(space.get()) == H5S_SIMPLE
                         ? check(H5Sget_simple_extent_ndims(space.get()), context, name)
                         : 0;
    if (rank < 1 || rank > max_rank) {
        return {};
    }
    Extents extents = {};
    Extents maxima = {};
    check(H5Sget_simple_extent_dims(space.get(), extents.data(), maxima.data()), context, name);
    return extents == maxima ? std::vector<index_t>(extents.begin(), extents.begin() + rank) : std::vector<index_t>();
}

/// The chunk extents, or nothing if the dataset is not chunked with the Fletcher32 filter and no other.
std::vector<hsize_t> read_chunk(hid_t dataset, std::size_t rank, std::string_view name, const Context& context) {
    const Properties properties(check(H5Dget_create_plist(dataset), context, name));
    if (H5Pget_layout(properties.get()) != H5D_CHUNKED || H5Pget_nfilters(properties.get()) != 1) {
        return {};
    }
    unsigned flags = 0;
    std::size_t no_values = 0;
    if (H5Pget_filter2(properties.get(), 0, &flags, &no_values, nullptr, 0, nullptr, nullptr) !=
        H5Z_FILTER_FLETCHER32) {
        return {};
    }
    std::vector<hsize_t> chunk(rank);
    const int chunk_rank = check(H5Pget_chunk(properties.get(), static_cast<int>(rank), chunk.data()), context, name);
    return std::cmp_equal(chunk_rank, rank) ? chunk : std::vector<hsize_t>();
}

/// Moves `position` to the next chunk in row-major order; false after the last one.
bool next_chunk(std::vector<hsize_t>& position, const FloatDataset& dataset) {
    for (std::size_t d = position.size(); d-- > 0;) {
        position[d] += dataset.chunk[d];
        if (std::cmp_less(position[d], dataset.shape[d])) {
            return true;
        }
        position[d] = 0;
    }
    return false;
}

/// A chunk that is missing would read as zeros, one with a skipped filter without a check, one with another size would
/// make HDF5 allocate that much.
void check_chunks(const FloatDataset& dataset, const std::string& name, std::uint64_t file_size,
                  const Context& context) {
    const std::uint64_t expected = product(dataset.chunk) * sizeof(float) + checksum_bytes;
    std::vector<hsize_t> position(dataset.shape.size(), 0);
    do {
        unsigned skipped_filters = 0;
        haddr_t address = HADDR_UNDEF;
        hsize_t bytes = 0;
        check(H5Dget_chunk_info_by_coord(dataset.handle.get(), position.data(), &skipped_filters, &address, &bytes),
              context, name);
        const bool valid = address != HADDR_UNDEF && skipped_filters == 0 && bytes == expected && bytes <= file_size &&
                           address <= file_size - bytes;
        require(valid, ExitCode::corrupt_input, "can't read {} (dataset '{}' is incomplete); use another checkpoint",
                context.file.string(), printable(name));
    } while (next_chunk(position, dataset));
}

}  // namespace

std::vector<hsize_t> chunk_shape(std::span<const index_t> shape, std::size_t limit) {
    std::vector<hsize_t> chunk(shape.size(), 1);
    std::uint64_t room = limit;
    for (std::size_t d = shape.size(); d-- > 0;) {
        const auto extent = std::max<std::uint64_t>(static_cast<std::uint64_t>(shape[d]), 1);
        const std::uint64_t pieces = (extent + room - 1) / room;
        chunk[d] = (extent + pieces - 1) / pieces;
        room = pieces > 1 ? 1 : room / chunk[d];
    }
    return chunk;
}

void write_floats(const File& file, const std::string& name, std::span<const index_t> shape,
                  std::span<const float> values, const Context& context) {
    const std::vector<hsize_t> extents(shape.begin(), shape.end());
    const std::vector<hsize_t> chunk = chunk_shape(shape, chunk_elements);
    const auto rank = static_cast<int>(shape.size());
    const DataSpace space(check(H5Screate_simple(rank, extents.data(), nullptr), context, name));
    const Properties creation(check(H5Pcreate(H5P_DATASET_CREATE), context, name));
    check(H5Pset_chunk(creation.get(), rank, chunk.data()), context, name);
    check(H5Pset_fletcher32(creation.get()), context, name);
    const Properties links(check(H5Pcreate(H5P_LINK_CREATE), context, name));
    check(H5Pset_create_intermediate_group(links.get(), 1), context, name);
    Dataset dataset(check(
        H5Dcreate2(file.get(), name.c_str(), H5T_IEEE_F32LE, space.get(), links.get(), creation.get(), H5P_DEFAULT),
        context, name));
    if (!values.empty()) {
        check(H5Dwrite(dataset.get(), H5T_NATIVE_FLOAT, whole_extent, whole_extent, H5P_DEFAULT, values.data()),
              context, name);
    }
    dataset.close(context, name);
}

FloatDataset open_floats(const File& file, const std::string& name, std::uint64_t file_size, const Context& context) {
    FloatDataset result;
    result.handle = Dataset(check(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), context, name));
    const hid_t dataset = result.handle.get();
    const DataType type(check(H5Dget_type(dataset), context, name));
    result.shape = read_shape(dataset, name, context);
    result.chunk = read_chunk(dataset, result.shape.size(), name, context);
    const bool plain = !result.shape.empty() && !result.chunk.empty() && H5Tequal(type.get(), H5T_IEEE_F32LE) > 0;
    require(plain, ExitCode::corrupt_input,
            "can't read {} (dataset '{}' is not a chunked float array with checksums); check that it was written by "
            "moesaic",
            context.file.string(), printable(name));
    const index_t elements = detail::element_count(result.shape);
    require(elements >= 0 && static_cast<std::uint64_t>(elements) <= file_size / sizeof(float), ExitCode::corrupt_input,
            "can't read {} (dataset '{}' claims to be larger than the file); use another checkpoint",
            context.file.string(), printable(name));
    // HDF5 keeps the product of the chunk extents below 4 GiB.
    require(product(result.chunk) <= max_chunk_bytes / sizeof(float), ExitCode::corrupt_input,
            "can't read {} (dataset '{}' has chunks of more than {} bytes); check that it was written by moesaic",
            context.file.string(), printable(name), max_chunk_bytes);
    result.elements = static_cast<std::size_t>(elements);
    return result;
}

void read_floats(const FloatDataset& dataset, const std::string& name, std::uint64_t file_size, std::span<float> out,
                 const Context& context) {
    require(
        out.size() == dataset.elements, ExitCode::corrupt_input,
        "can't use {} (dataset '{}' has {} elements and {} are expected); check that it belongs to this configuration",
        context.file.string(), printable(name), dataset.elements, out.size());
    if (!out.empty()) {
        check_chunks(dataset, name, file_size, context);
        check(H5Dread(dataset.handle.get(), H5T_NATIVE_FLOAT, whole_extent, whole_extent, H5P_DEFAULT, out.data()),
              context, name);
    }
}

}  // namespace moesaic::io::hdf5
