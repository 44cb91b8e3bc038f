// Replicated weights that the ranks of a host hold once.
#pragma once

#include "model/layer_plan.hpp"
#include "model/weights/weights.hpp"
#include "mpi/host_memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::model {

/// What ranks of a host hold together.
enum class WeightSharing : std::uint8_t {
    none,  ///< nothing
    host,  ///< the matrices that every rank has whole
};
constexpr auto names_of(WeightSharing) {
    return std::to_array<std::string_view>({"none", "host"});
}

/// The weights of another source. Matrices that every rank has whole lie in memory that the ranks of a host share, in
/// the order in which they are asked for; each rank fills some rows of each, so that a host reads, checks and packs
/// them once. What others fill is there only after HostMemory::publish.
template <class Scalar>
class SharedWeights final : public WeightSource<Scalar> {
public:
    /// Bytes of memory that the matrices of a model take.
    [[nodiscard]] static std::size_t bytes_of(const Architecture& architecture, const std::vector<LayerPlan>& layers);

    /// `source` must outlive the object.
    SharedWeights(const WeightSource<Scalar>& source, std::shared_ptr<mpi::HostMemory> memory);

    void read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const override {
        source_.read(name, part, out);
    }
    void fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const override {
        source_.fill(name, part, out);
    }
    void fill_whole(const std::string& name, ops::PackedWeights& weights) const override;
    void read_full_precision(const std::string& name, TensorRole role,
                             MatrixView<accumulator_t<Scalar>> out) const override {
        source_.read_full_precision(name, role, out);
    }
    [[nodiscard]] std::uint64_t fingerprint() const override { return source_.fingerprint(); }
    [[nodiscard]] std::uint64_t bytes_read() const override { return source_.bytes_read(); }
    [[nodiscard]] std::string origin(const std::string& name) const override { return source_.origin(name); }
    void mark_read_elsewhere(const std::string& name) const override { source_.mark_read_elsewhere(name); }

private:
    const WeightSource<Scalar>& source_;
    std::shared_ptr<mpi::HostMemory> memory_;
    mutable std::size_t taken_ = 0;  ///< bytes of the memory
};

}  // namespace moesaic::model
