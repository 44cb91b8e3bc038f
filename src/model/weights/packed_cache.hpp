// A file with the routed experts as they are packed in memory, for a start without reading, rounding and packing them
// again. Blocks of 32 x 32 are its unit, so that any grid of ranks finds its slices in it.
#pragma once

#include "io/files.hpp"
#include "io/safetensors.hpp"
#include "model/layer_plan.hpp"
#include "model/weights/weights.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace moesaic::model {

/// The weights of another source; those of routed experts go through the file. A safetensors file: for each projection
/// of a layer its blocks [experts x row blocks, bytes], and "NAME.checksums" with the XXH3 of each block.
template <class Scalar>
class PackedCache final : public WeightSource<Scalar> {
public:
    /// What this rank does with the file.
    enum class Use : std::uint8_t {
        read,   ///< it is there: experts come from it, not from the source
        write,  ///< it is made: experts come from the source and are added to it
        pass,   ///< another rank adds the same experts
    };

    /// Makes the file under its temporary name, for one of the ranks; those that write open it then.
    static void create(const io::PartialFile& file, const std::vector<LayerPlan>& layers, std::uint64_t fingerprint);

    /// Opens the file; `path` is that of the temporary file for `write`. `source` and `layers` must outlive the object.
    /// Throws a usage error for the cache of other weights, formats, or versions of the program.
    PackedCache(const WeightSource<Scalar>& source, const std::vector<LayerPlan>& layers, Use use,
                const std::filesystem::path& path);

    void read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const override {
        source_.read(name, part, out);
    }
    void fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const override;
    void read_full_precision(const std::string& name, TensorRole role,
                             MatrixView<accumulator_t<Scalar>> out) const override {
        source_.read_full_precision(name, role, out);
    }
    [[nodiscard]] std::uint64_t fingerprint() const override { return source_.fingerprint(); }
    [[nodiscard]] std::uint64_t bytes_read() const override;
    [[nodiscard]] std::string origin(const std::string& name) const override { return source_.origin(name); }
    void mark_read_elsewhere(const std::string& name) const override { source_.mark_read_elsewhere(name); }

    /// Flushes what this rank wrote.
    void close();

private:
    /// Where the blocks of a matrix begin.
    struct Place {
        std::string tensor;
        index_t first_row = 0;
    };
    void check(const std::vector<LayerPlan>& layers) const;
    void read_blocks(const Place& place, index_t block_row, index_t block_col, const ops::PackedMatrix& out) const;

    const WeightSource<Scalar>& source_;
    Use use_;
    std::optional<io::TensorSource> stored_;
    std::optional<io::SharedTensorsWriter> writer_;
    std::unordered_map<std::string, Place> places_;  ///< by the name of the weight
};

}  // namespace moesaic::model
