// The HDF5 C API with owners for its identifiers, and its errors as ours. The only header that includes <hdf5.h>;
// private to src/io. An object must not outlive the file that it belongs to.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/matrix.hpp"

namespace moesaic::io::hdf5 {

using core::index_t;

/// What error messages say: the file that the user knows, and whether it is being written.
struct Context {
    std::filesystem::path file;
    bool writing = false;
};

/// Throws for the HDF5 call that has just failed, with the innermost message of HDF5's error stack. Failed writes get
/// the exit code of their cause (a full disk: ExitCode::out_of_resources), failed reads ExitCode::corrupt_input.
[[noreturn]] void fail_call(const Context& context, std::string_view object);

/// Passes the result of an HDF5 call on; negative ones throw. `object` is what the call was about.
template <class Result>
Result check(Result result, const Context& context, std::string_view object) {
    if (result < 0) {
        fail_call(context, object);
    }
    return result;
}

/// Owns an identifier. The destructor ignores errors; code that writes calls `close`, because a full disk may show only
/// then. A close that failed is not tried again.
template <herr_t (*Close)(hid_t)>
class Handle {
public:
    Handle() = default;
    explicit Handle(hid_t id) noexcept : id_(id) {}
    Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
    Handle& operator=(Handle&& other) noexcept {
        std::swap(id_, other.id_);
        return *this;
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    ~Handle() {
        if (id_ >= 0) {
            (void)Close(id_);
        }
    }

    void close(const Context& context, std::string_view object) {
        check(Close(std::exchange(id_, H5I_INVALID_HID)), context, object);
    }
    [[nodiscard]] hid_t get() const noexcept { return id_; }

private:
    hid_t id_ = H5I_INVALID_HID;
};

using File = Handle<H5Fclose>;
using Group = Handle<H5Gclose>;
using Dataset = Handle<H5Dclose>;
using Attribute = Handle<H5Aclose>;
using DataSpace = Handle<H5Sclose>;
using DataType = Handle<H5Tclose>;
using Properties = Handle<H5Pclose>;
using Object = Handle<H5Oclose>;

/// Prepares the library for the calling thread; call it before any other HDF5 function.
void prepare_library();

/// Creates a file of format version 1.10 (checksums on all metadata); an existing one is an error.
/// Opening and creating files prepare the library.
[[nodiscard]] File create_file(const std::filesystem::path& path, const Context& context);
/// Opens a file for reading.
[[nodiscard]] File open_file(const std::filesystem::path& path, const Context& context);

/// Attributes of a file's root group: text of fixed length, and integers.
void write_attribute(const File& file, const std::string& name, std::string_view text, const Context& context);
void write_attribute(const File& file, const std::string& name, std::uint64_t value, const Context& context);
/// Text of at most `limit` bytes.
[[nodiscard]] std::string read_text_attribute(const File& file, const std::string& name, std::size_t limit,
                                              const Context& context);
[[nodiscard]] std::uint64_t read_integer_attribute(const File& file, const std::string& name, const Context& context);

/// Paths of all datasets of the file, sorted. Soft and external links, other objects, groups deeper than 32 and more
/// than a million links throw with ExitCode::corrupt_input.
[[nodiscard]] std::vector<std::string> list_datasets(const File& file, const Context& context);

/// Chunk extents of roughly equal size, contiguous in row-major order and of at most `limit` elements.
[[nodiscard]] std::vector<hsize_t> chunk_shape(std::span<const index_t> shape, std::size_t limit);

/// Adds a chunked float dataset with Fletcher32 checksums and the groups of its path; `values` has all elements.
void write_floats(const File& file, const std::string& name, std::span<const index_t> shape,
                  std::span<const float> values, const Context& context);

/// A dataset as `write_floats` makes them.
struct FloatDataset {
    Dataset handle;
    std::vector<index_t> shape;
    std::vector<hsize_t> chunk;
    std::size_t elements = 0;
};

/// Opens a dataset and checks that it is stored as `write_floats` does, and is no larger than a file of `file_size`
/// bytes can hold. Anything else throws with ExitCode::corrupt_input.
[[nodiscard]] FloatDataset open_floats(const File& file, const std::string& name, std::uint64_t file_size,
                                       const Context& context);
/// Reads all elements after checking that every chunk exists, lies inside the file and carries its checksum.
void read_floats(const FloatDataset& dataset, const std::string& name, std::uint64_t file_size, std::span<float> out,
                 const Context& context);

}  // namespace moesaic::io::hdf5
