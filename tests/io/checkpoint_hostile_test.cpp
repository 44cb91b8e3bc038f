// HDF5 files that are valid for the library and yet no checkpoints.
#include <nlohmann/json.hpp>

#include "io/checkpoint.hpp"
#include "io/hdf5.hpp"
#include "support.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using test::expect_error;
using test::TemporaryFolder;

/// The hash of the header "{}".
constexpr std::uint64_t empty_header_hash = 0x08f44b07b5901a25U;
/// H5S_ALL, whose macro is an old-style cast.
constexpr hid_t whole_extent = 0;

class HostileCheckpoint : public testing::Test {
protected:
    HostileCheckpoint() : path_(folder_ / "a.h5"), context_{path_, true}, file_(hdf5::create_file(path_, context_)) {}

    void write_attributes(std::string_view schema, std::uint64_t version, std::string_view header,
                          std::uint64_t header_hash) {
        hdf5::write_attribute(file_, "schema", schema, context_);
        hdf5::write_attribute(file_, "version", version, context_);
        hdf5::write_attribute(file_, "header", header, context_);
        hdf5::write_attribute(file_, "header_fnv1a", header_hash, context_);
    }
    void write_attributes() { write_attributes("moesaic-checkpoint", 1, "{}", empty_header_hash); }
    /// Adds the dataset "x" of the given properties; `write` also stores its values.
    void add_dataset(const hdf5::Properties& creation, std::vector<hsize_t> extents, hid_t type = H5T_IEEE_F32LE,
                     bool write = true, std::vector<hsize_t> maxima = {}) {
        const auto rank = static_cast<int>(extents.size());
        const hdf5::DataSpace space(H5Screate_simple(rank, extents.data(), maxima.empty() ? nullptr : maxima.data()));
        const hdf5::Dataset dataset(
            H5Dcreate2(file_.get(), "x", type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
        ASSERT_GE(dataset.get(), 0);
        if (write) {
            const std::vector<double> values(64);
            ASSERT_GE(H5Dwrite(dataset.get(), type, whole_extent, whole_extent, H5P_DEFAULT, values.data()), 0);
        }
    }
    [[nodiscard]] static hdf5::Properties chunked(std::vector<hsize_t> chunk, bool checksum = true) {
        hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
        (void)H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data());
        if (checksum) {
            (void)H5Pset_fletcher32(creation.get());
        }
        return creation;
    }
    /// Closes the file unless it is closed and expects that a reader refuses it, at the latest when it reads the
    /// dataset "x".
    void expect_refused(std::string_view message, ExitCode code = ExitCode::corrupt_input) {
        if (file_.get() >= 0) {
            file_.close(context_, "file");
        }
        expect_error(code, message, [&] {
            const CheckpointReader reader(path_);
            std::vector<float> values(16);
            reader.read("x", values);
        });
    }

    TemporaryFolder folder_;
    std::filesystem::path path_;
    hdf5::Context context_;
    hdf5::File file_;
};

TEST_F(HostileCheckpoint, TheFixtureMakesAReadableOne) {
    write_attributes();
    add_dataset(chunked({4}), {16});
    file_.close(context_, "file");
    std::vector<float> values(16, 1.0F);
    CheckpointReader(path_).read("x", values);
    EXPECT_EQ(values, std::vector<float>(16));
}

TEST_F(HostileCheckpoint, NoAttributes) {
    expect_refused("it has no attribute 'schema'");
}

TEST_F(HostileCheckpoint, OtherSchema) {
    write_attributes("another\nschema", 1, "{}", empty_header_hash);
    expect_refused("its schema is 'another\\x0aschema', not 'moesaic-checkpoint'");
}

TEST_F(HostileCheckpoint, NewerVersion) {
    write_attributes("moesaic-checkpoint", 3, "{}", empty_header_hash);
    expect_refused("its version is 3 and this program knows versions up to 2", ExitCode::usage);
}

TEST_F(HostileCheckpoint, VersionZero) {
    write_attributes("moesaic-checkpoint", 0, "{}", empty_header_hash);
    expect_refused("no valid version");
}

TEST_F(HostileCheckpoint, AttributesOfOtherTypes) {
    hdf5::write_attribute(file_, "schema", std::uint64_t{1}, context_);
    expect_refused("its attribute 'schema' has another type");
}

TEST_F(HostileCheckpoint, TextOfVariableLength) {
    const hdf5::DataType type(H5Tcopy(H5T_C_S1));
    ASSERT_GE(H5Tset_size(type.get(), H5T_VARIABLE), 0);
    const hdf5::DataSpace space(H5Screate(H5S_SCALAR));
    const hdf5::Attribute attribute(
        H5Acreate2(file_.get(), "schema", type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
    const char* text = "moesaic-checkpoint";
    ASSERT_GE(H5Awrite(attribute.get(), type.get(), &text), 0);
    expect_refused("its attribute 'schema' has an invalid size");
}

TEST_F(HostileCheckpoint, LongText) {
    write_attributes(std::string(1000, 'x'), 1, "{}", empty_header_hash);
    expect_refused("its attribute 'schema' has an invalid size");
}

TEST_F(HostileCheckpoint, HeaderWithAnotherHash) {
    write_attributes("moesaic-checkpoint", 1, "[]", empty_header_hash);
    expect_refused("the checksum of its header is wrong");
}

TEST_F(HostileCheckpoint, SoftLink) {
    write_attributes();
    ASSERT_GE(H5Lcreate_soft("/y", file_.get(), "x", H5P_DEFAULT, H5P_DEFAULT), 0);
    expect_refused("'x' is a soft or external link");
}

TEST_F(HostileCheckpoint, ExternalLink) {
    write_attributes();
    ASSERT_GE(H5Lcreate_external("/etc/passwd", "/x", file_.get(), "x", H5P_DEFAULT, H5P_DEFAULT), 0);
    expect_refused("'x' is a soft or external link");
}

TEST_F(HostileCheckpoint, GroupThatHoldsItself) {
    write_attributes();
    ASSERT_GE(H5Lcreate_hard(file_.get(), "/", file_.get(), "x", H5P_DEFAULT, H5P_DEFAULT), 0);
    ASSERT_GE(H5Lcreate_hard(file_.get(), "/", file_.get(), "y", H5P_DEFAULT, H5P_DEFAULT), 0);
    expect_refused("nested too deep or have too many members");
}

TEST_F(HostileCheckpoint, NamedType) {
    write_attributes();
    const hdf5::DataType type(H5Tcopy(H5T_NATIVE_INT));
    ASSERT_GE(H5Tcommit2(file_.get(), "x", type.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), 0);
    expect_refused("'x' is neither group nor dataset");
}

constexpr std::string_view not_plain = "dataset 'x' is not a chunked float array with checksums";

TEST_F(HostileCheckpoint, ContiguousDataset) {
    write_attributes();
    add_dataset(hdf5::Properties(H5Pcreate(H5P_DATASET_CREATE)), {16});
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, ExternalStorage) {
    write_attributes();
    const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
    ASSERT_GE(H5Pset_external(creation.get(), "/etc/passwd", 0, 64), 0);
    add_dataset(creation, {16}, H5T_IEEE_F32LE, false);
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, VirtualDataset) {
    write_attributes();
    const hsize_t extent = 16;
    const hdf5::DataSpace space(H5Screate_simple(1, &extent, nullptr));
    const hdf5::Properties creation(H5Pcreate(H5P_DATASET_CREATE));
    ASSERT_GE(H5Pset_virtual(creation.get(), space.get(), "/etc/passwd", "x", space.get()), 0);
    add_dataset(creation, {16}, H5T_IEEE_F32LE, false);
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, NoChecksum) {
    write_attributes();
    add_dataset(chunked({4}, false), {16});
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, SecondFilter) {
    write_attributes();
    const hdf5::Properties creation = chunked({4});
    ASSERT_GE(H5Pset_shuffle(creation.get()), 0);
    add_dataset(creation, {16});
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, OtherElementType) {
    write_attributes();
    add_dataset(chunked({4}), {16}, H5T_IEEE_F64LE);
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, GrowingDataset) {
    write_attributes();
    add_dataset(chunked({4}), {16}, H5T_IEEE_F32LE, true, {H5S_UNLIMITED});
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, TooManyDimensions) {
    write_attributes();
    add_dataset(chunked(std::vector<hsize_t>(9, 1)), std::vector<hsize_t>(9, 1));
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, ScalarDataset) {
    write_attributes();
    const hdf5::DataSpace space(H5Screate(H5S_SCALAR));
    const hdf5::Dataset dataset(
        H5Dcreate2(file_.get(), "x", H5T_IEEE_F32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    ASSERT_GE(dataset.get(), 0);
    expect_refused(not_plain);
}

TEST_F(HostileCheckpoint, LargerThanTheFile) {
    write_attributes();
    add_dataset(chunked({1 << 20}), {hsize_t{1} << 60}, H5T_IEEE_F32LE, false);
    expect_refused("dataset 'x' claims to be larger than the file");
}

TEST_F(HostileCheckpoint, ExtentsThatOverflow) {
    write_attributes();
    add_dataset(chunked({1, 1, 1}), {hsize_t{1} << 31, hsize_t{1} << 31, 2}, H5T_IEEE_F32LE, false);
    expect_refused("dataset 'x' claims to be larger than the file");
}

TEST_F(HostileCheckpoint, LargeChunks) {
    write_attributes();
    add_dataset(chunked({hsize_t{1} << 25}), {hsize_t{1} << 25}, H5T_IEEE_F32LE, false);
    file_.close(context_, "file");
    std::filesystem::resize_file(path_, std::uintmax_t{1} << 28);  // sparse
    expect_refused("dataset 'x' has chunks of more than 16777216 bytes");
}

TEST_F(HostileCheckpoint, MissingChunks) {
    write_attributes();
    add_dataset(chunked({4}), {16}, H5T_IEEE_F32LE, false);
    expect_refused("dataset 'x' is incomplete");
}

TEST_F(HostileCheckpoint, ChunkWithoutItsChecksum) {
    write_attributes();
    add_dataset(chunked({16}), {16}, H5T_IEEE_F32LE, false);
    hdf5::Dataset dataset(H5Dopen2(file_.get(), "x", H5P_DEFAULT));
    const std::vector<float> values(16);
    const hsize_t offset = 0;
    ASSERT_GE(H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 1, &offset, 64, values.data()), 0);
    dataset.close(context_, "x");
    expect_refused("dataset 'x' is incomplete");
}

}  // namespace
}  // namespace moesaic::io
