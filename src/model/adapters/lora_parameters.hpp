// The trainable parameters of a rank: LoRA factors and their gradients in flat buckets that are reduced, clipped,
// updated and saved as a whole.
#pragma once

#include "core/matrix.hpp"
#include "core/slice.hpp"
#include "model/adapters/lora_settings.hpp"
#include "model/layer_plan.hpp"
#include "mpi/process_grid.hpp"
#include "ops/expert_backend.hpp"
#include "ops/lora_linear.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::model {

using core::index_t;
using core::MatrixView;

/// Which dimension of a factor's matrices is spread over the tensor group.
enum class Sharding : std::uint8_t { none, rows, columns };

/// A or B of one planned projection: `count` matrices of [rows, cols]. This rank has those in `held`, and of each of
/// them [local_rows, local_cols]. The LoRA rank is the largest of the modules' ranks; what lies beyond a module's own
/// rank is zero in both factors, and so are its gradients.
struct LoraTensor {
    /// The module in the checkpoint, without a number for all experts: "model.layers.3.mlp.experts.gate_proj.lora_A".
    std::string name;
    std::vector<std::string> modules;  ///< [count], the module that each matrix adapts, as in the checkpoint
    std::vector<AdapterSpec> specs;    ///< [count], the adapters of these modules
    LoraTarget target = LoraTarget::experts;
    std::optional<ops::Projection> projection{};  ///< of routed experts
    ops::LoraFactor factor = ops::LoraFactor::a;
    index_t rows = 0;
    index_t cols = 0;
    core::Slice held;  ///< matrices of this rank
    Sharding sharding = Sharding::none;
    index_t sharded_begin = 0;  ///< where this rank's part of the sharded dimension begins
    index_t local_rows = 0;
    index_t local_cols = 0;
    index_t offset = 0;  ///< of the first element in its bucket

    LoraTensor() = default;
    LoraTensor(const ProjectionPlan& plan, ops::LoraFactor which);

    [[nodiscard]] index_t count() const noexcept { return static_cast<index_t>(modules.size()); }
    [[nodiscard]] index_t size() const noexcept { return held.extent * local_rows * local_cols; }
    /// Where this rank's part of a matrix begins.
    [[nodiscard]] index_t row_begin() const noexcept { return sharding == Sharding::rows ? sharded_begin : 0; }
    [[nodiscard]] index_t col_begin() const noexcept { return sharding == Sharding::columns ? sharded_begin : 0; }
    /// Size of matrix `index` without the padding of its LoRA rank.
    [[nodiscard]] index_t unpadded_rows(index_t index) const {
        return factor == ops::LoraFactor::a ? lora_rank_of(index) : rows;
    }
    [[nodiscard]] index_t unpadded_cols(index_t index) const {
        return factor == ops::LoraFactor::a ? cols : lora_rank_of(index);
    }
    [[nodiscard]] index_t lora_rank_of(index_t index) const { return specs[static_cast<std::size_t>(index)].lora_rank; }
    /// Name of matrix `index` in an adapter whose layout has it by itself.
    [[nodiscard]] std::string adapter_name(index_t index) const;
};

/// Which ranks hold the same of a factor, and sum its gradients: all; those with the same experts; those with the same
/// slices of the same experts, whose gradients are complete within the tensor group.
enum class Holders : std::uint8_t { all_ranks, data_and_tensor_groups, data_group };

/// The holders of one factor of a projection.
[[nodiscard]] Holders holders_of(const ProjectionPlan& projection, ops::LoraFactor factor) noexcept;

[[nodiscard]] const mpi::Communicator& group_of(const mpi::ProcessGrid& grid, Holders holders);

/// Factors of one layer that the same ranks hold. Sum: float or double.
template <class Sum>
struct ParameterBucket {
    std::vector<LoraTensor> tensors;
    std::optional<index_t> experts_of_layer{};  ///< of which layer it holds routed experts
    Holders holders = Holders::all_ranks;
    core::Matrix<Sum> values;     // [1, size]
    core::Matrix<Sum> gradients;  // [1, size]

    [[nodiscard]] index_t size() const noexcept { return values.cols(); }
    /// This rank's matrices of a tensor below each other in `storage` (values or gradients): [held * local_rows,
    /// local_cols].
    [[nodiscard]] static MatrixView<Sum> view(const LoraTensor& tensor, core::Matrix<Sum>& storage) {
        return {storage.data() + tensor.offset, tensor.held.extent * tensor.local_rows, tensor.local_cols};
    }
    /// One of them: matrix `index` of the tensor's `count`.
    [[nodiscard]] static MatrixView<Sum> matrix(const LoraTensor& tensor, index_t index, core::Matrix<Sum>& storage) {
        return view(tensor, storage).rows((index - tensor.held.begin) * tensor.local_rows, tensor.local_rows);
    }
};

/// Lays the tensors of a bucket out and gives them and their gradients memory, all zero.
template <class Sum>
void allocate(ParameterBucket<Sum>& bucket);

/// The factors of one projection on this rank, those of its modules below each other, and their gradients.
template <class Sum>
struct ProjectionFactors {
    ops::LoraMatrices<const Sum> values;
    ops::LoraMatrices<Sum> gradients;
};

/// All buckets: two of the experts of each MoE layer, and one for everything else in a layer that is adapted. Buckets
/// keep their address.
template <class Sum>
struct LoraParameters {
    LoraSettings settings;
    std::vector<std::unique_ptr<ParameterBucket<Sum>>> buckets;

    LoraParameters() = default;
    /// Zeros for all adapted projections of the layers.
    LoraParameters(const std::vector<LayerPlan>& layers, LoraSettings lora_settings);

    /// Those of an adapted projection; valid as long as the object.
    [[nodiscard]] ProjectionFactors<Sum> factors_of(const ProjectionPlan& projection) const;
    void clear_gradients();
    /// A as PEFT initialises it (uniform in +-1/sqrt(in features)), B zero; the same at any rank count.
    void initialise(std::uint64_t seed);
    /// Elements of all factors without padding, whatever the number of ranks of the program.
    [[nodiscard]] index_t global_size() const;
};

}  // namespace moesaic::model
