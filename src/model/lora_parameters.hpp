// The trainable parameters of a rank: LoRA factors and their gradients in flat buckets that are reduced, clipped,
// updated and saved as a whole.
#pragma once

#include "core/matrix.hpp"
#include "mpi/process_grid.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moesaic::model {

using core::index_t;
using core::MatrixView;

struct LoraSettings {
    index_t rank = 8;
    double alpha = 16;
    bool rank_stabilised = false;
};

enum class LoraFactor : std::uint8_t { a, b };

/// Which dimension of a factor's matrices is spread over the tensor group.
enum class Sharding : std::uint8_t { none, rows, columns };

/// One factor of one projection, for all experts of a layer: `count` matrices of [rows, cols], of which this rank has
/// [local_rows, local_cols].
struct LoraTensor {
    std::string name;                  ///< unique, for example "layers.3.experts.gate_proj.lora_A"
    std::vector<std::string> modules;  ///< [count], the module that each matrix adapts, as in the checkpoint
    LoraFactor factor = LoraFactor::a;
    index_t rows = 0;
    index_t cols = 0;
    Sharding sharding = Sharding::none;
    index_t sharded_begin = 0;  ///< where this rank's part of the sharded dimension begins
    index_t local_rows = 0;
    index_t local_cols = 0;
    index_t offset = 0;  ///< of the first element in its bucket

    [[nodiscard]] index_t count() const noexcept { return static_cast<index_t>(modules.size()); }
    [[nodiscard]] index_t size() const noexcept { return count() * local_rows * local_cols; }
    /// Name of matrix `index` in a PEFT adapter file.
    [[nodiscard]] std::string peft_name(index_t index) const;
};

/// Factors of one layer that are reduced over the same ranks. A: float or double.
template <class A>
struct ParameterBucket {
    std::vector<LoraTensor> tensors;
    bool sharded = false;    ///< gradients are complete in the tensor group: reduced over the data group, not the world
    core::Matrix<A> values;  // [1, size]
    core::Matrix<A> gradients;  // [1, size]

    [[nodiscard]] index_t size() const noexcept { return values.cols(); }
    /// All matrices of a tensor below each other in `storage` (values or gradients): [count * local_rows, local_cols].
    [[nodiscard]] static MatrixView<A> view(const LoraTensor& tensor, core::Matrix<A>& storage) {
        return {storage.data() + tensor.offset, tensor.count() * tensor.local_rows, tensor.local_cols};
    }
};

/// All buckets, two per MoE layer. Buckets keep their address.
template <class A>
struct LoraParameters {
    LoraSettings settings;
    std::vector<std::unique_ptr<ParameterBucket<A>>> buckets;

    void clear_gradients();
    /// A as PEFT initialises it (uniform in +-1/sqrt(in features)), B zero; the same at any rank count.
    void initialise(std::uint64_t seed);
    /// Elements of all factors, whatever the rank count.
    [[nodiscard]] index_t global_size() const;
};

/// Declares the tensors of a bucket and then allocates it with zero gradients.
template <class A>
void allocate(ParameterBucket<A>& bucket);

}  // namespace moesaic::model
