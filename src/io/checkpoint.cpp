#include "io/checkpoint.hpp"

#include <array>
#include <map>
#include <utility>

#include "core/build_info.hpp"
#include "core/error.hpp"
#include "io/files.hpp"
#include "io/hdf5.hpp"
#include "io/json.hpp"
#include "io/safetensors_header.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using core::fail;
using core::printable;
using core::require;

constexpr std::string_view schema = "moesaic-checkpoint";
constexpr std::uint64_t schema_version = 2;
constexpr std::size_t max_header_bytes = std::size_t{16} << 20U;
constexpr std::size_t max_schema_bytes = 256;

/// FNV-1a. HDF5 has checksums for small attributes only, and a header may be a large one.
std::uint64_t hash(std::string_view text) {
    std::uint64_t value = 0xcbf29ce484222325U;
    for (const char character : text) {
        value = (value ^ static_cast<unsigned char>(character)) * 0x100000001b3U;
    }
    return value;
}

std::filesystem::path with_folder(const std::filesystem::path& file) {
    if (file.has_parent_path()) {
        create_folder(file.parent_path());
    }
    return file;
}

/// Size of the file after its signature and version were checked: HDF5 itself would look for a signature further on,
/// and only the newer format versions have checksums.
std::uint64_t check_signature(const std::filesystem::path& path) {
    constexpr std::array<unsigned char, 8> signature = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    std::array<unsigned char, signature.size() + 1> start = {};
    const RandomAccessFile file(path);
    bool valid = file.size() >= start.size();
    if (valid) {
        file.read(0, std::as_writable_bytes(std::span(start)));
        const unsigned version = start.back();
        valid = std::equal(signature.begin(), signature.end(), start.begin()) && (version == 2 || version == 3);
    }
    require(
        valid, ExitCode::corrupt_input,
        "can't read {} (it is not an HDF5 file of format version 1.8 or later); check that it was written by moesaic",
        path.string());
    return file.size();
}

}  // namespace

struct CheckpointWriter::Impl {
    explicit Impl(const std::filesystem::path& target)
        : partial(with_folder(target)), context{target, true}, file(hdf5::create_file(partial.path(), context)) {}

    PartialFile partial;
    hdf5::Context context;
    hdf5::File file;
};

CheckpointWriter::CheckpointWriter(const std::filesystem::path& file, const nlohmann::json& header)
    : impl_(std::make_unique<Impl>(file)) {
    const std::string text = header.dump();
    require(text.size() <= max_header_bytes, ExitCode::runtime_failure,
            "can't write {} (its header has {} bytes and {} are allowed); report this", file.string(), text.size(),
            max_header_bytes);
    const std::string creator = "moesaic " + std::string(core::build_info::version);
    hdf5::write_attribute(impl_->file, "schema", schema, impl_->context);
    hdf5::write_attribute(impl_->file, "version", schema_version, impl_->context);
    hdf5::write_attribute(impl_->file, "created_by", creator, impl_->context);
    hdf5::write_attribute(impl_->file, "header", text, impl_->context);
    hdf5::write_attribute(impl_->file, "header_fnv1a", hash(text), impl_->context);
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::write(const std::string& dataset, std::span<const index_t> shape,
                             std::span<const float> values) {
    require(!shape.empty() && std::cmp_equal(detail::element_count(shape), values.size()), ExitCode::runtime_failure,
            "can't write {} (dataset '{}' has {} values, which is not what its shape says); report this",
            impl_->context.file.string(), dataset, values.size());
    hdf5::write_floats(impl_->file, dataset, shape, values, impl_->context);
}

void CheckpointWriter::commit() {
    hdf5::check(H5Fflush(impl_->file.get(), H5F_SCOPE_LOCAL), impl_->context, "file");
    impl_->file.close(impl_->context, "file");
    try {
        const CheckpointReader reader(impl_->partial.path());
        std::vector<float> values;
        for (const std::string& dataset : reader.datasets()) {
            values.resize(static_cast<std::size_t>(detail::element_count(reader.shape(dataset))));
            reader.read(dataset, values);
        }
    } catch (const core::Error& error) {
        fail(ExitCode::runtime_failure, "can't write {} (reading it back fails: {}); check the disk",
             impl_->context.file.string(), error.what());
    }
    impl_->partial.commit();
}

struct CheckpointReader::Impl {
    explicit Impl(const std::filesystem::path& path)
        : context{path, false}, file_size(check_signature(path)), file(hdf5::open_file(path, context)) {}

    hdf5::Context context;
    std::uint64_t file_size;
    hdf5::File file;
    nlohmann::json header;
    std::map<std::string, std::vector<index_t>> shapes;

    [[nodiscard]] const std::vector<index_t>& find(const std::string& name) const {
        const auto found = shapes.find(name);
        require(found != shapes.end(), ExitCode::corrupt_input,
                "can't use {} (it has no dataset '{}'); check that it belongs to this configuration",
                context.file.string(), name);
        return found->second;
    }
};

CheckpointReader::CheckpointReader(const std::filesystem::path& file) : impl_(std::make_unique<Impl>(file)) {
    const hdf5::Context& context = impl_->context;
    const std::string found = hdf5::read_text_attribute(impl_->file, "schema", max_schema_bytes, context);
    require(found == schema, ExitCode::corrupt_input, "can't read {} (its schema is '{}', not '{}'); name a checkpoint",
            file.string(), printable(found), schema);
    const std::uint64_t version = hdf5::read_integer_attribute(impl_->file, "version", context);
    require(version <= schema_version, ExitCode::usage,
            "can't read {} (its version is {} and this program knows versions up to {}); use a newer moesaic",
            file.string(), version, schema_version);
    require(version > 0, ExitCode::corrupt_input, "can't read {} (it has no valid version); use another checkpoint",
            file.string());
    const std::string text = hdf5::read_text_attribute(impl_->file, "header", max_header_bytes, context);
    require(hash(text) == hdf5::read_integer_attribute(impl_->file, "header_fnv1a", context), ExitCode::corrupt_input,
            "can't read {} (the checksum of its header is wrong); use another checkpoint", file.string());
    impl_->header = parse_json(text, file.string() + " (header)");
    for (const std::string& name : hdf5::list_datasets(impl_->file, context)) {
        impl_->shapes.emplace(name, hdf5::open_floats(impl_->file, name, impl_->file_size, context).shape);
    }
}

CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;
CheckpointReader::~CheckpointReader() = default;

const nlohmann::json& CheckpointReader::header() const {
    return impl_->header;
}

std::vector<std::string> CheckpointReader::datasets() const {
    std::vector<std::string> names;
    names.reserve(impl_->shapes.size());
    for (const auto& [name, unused] : impl_->shapes) {
        names.push_back(name);
    }
    return names;
}

bool CheckpointReader::contains(const std::string& dataset) const {
    return impl_->shapes.contains(dataset);
}

std::vector<index_t> CheckpointReader::shape(const std::string& dataset) const {
    return impl_->find(dataset);
}

void CheckpointReader::read(const std::string& dataset, std::span<float> out) const {
    (void)impl_->find(dataset);
    const auto opened = hdf5::open_floats(impl_->file, dataset, impl_->file_size, impl_->context);
    hdf5::read_floats(opened, dataset, impl_->file_size, out, impl_->context);
}

}  // namespace moesaic::io
