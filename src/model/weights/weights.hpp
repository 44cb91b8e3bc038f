// Where frozen weights come from: an interface, and its implementation for Hugging Face checkpoints.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"
#include "io/safetensors.hpp"
#include "model/families/architecture.hpp"
#include "model/weights/stored_matrix.hpp"
#include "ops/weights/packed_weights.hpp"

#include <cstdint>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace moesaic::model {

using core::accumulator_t;
using core::index_t;
using core::MatrixView;

/// A rectangle of a tensor that is [rows, cols] as a whole; a vector [N] is one row of N columns.
struct TensorSlice {
    index_t rows = 0;
    index_t cols = 0;
    index_t row_begin = 0;
    index_t col_begin = 0;
};

/// What a tensor in full precision does to activations.
enum class TensorRole : std::uint8_t {
    matrix,  ///< projects them, as a router
    scale,   ///< of a norm
    offset,  ///< a bias
};

/// Delivers parts of named tensors to a model whose activations are Scalar, to several threads at once. One of another
/// shape, or with a value that is not finite, is an error that names it.
template <class Scalar>
class WeightSource {
public:
    virtual ~WeightSource() = default;
    /// Fills `out` with the part of tensor `name` that begins at the given row and column.
    virtual void read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const = 0;
    /// The same for packed weights, some rows after the other. A source that has codes and scales where `out` wants
    /// them overrides it: the part says which groups it cuts.
    virtual void fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const;
    /// Fills `out` with a whole tensor in the accumulator's type, for norms and routers.
    virtual void read_full_precision(const std::string& name, TensorRole role,
                                     MatrixView<accumulator_t<Scalar>> out) const = 0;
    /// Recognises the weights when a run is resumed: other weights have another number, most likely. Reads little.
    [[nodiscard]] virtual std::uint64_t fingerprint() const { return 0; }
    /// Read from files so far; 0 if there are none.
    [[nodiscard]] virtual std::uint64_t bytes_read() const { return 0; }
    /// Where the tensor comes from, for messages.
    [[nodiscard]] virtual std::string origin(const std::string& name) const { return "tensor " + name; }
    /// Says that another rank reads the tensor.
    virtual void mark_read_elsewhere(const std::string& name) const { static_cast<void>(name); }

    void read_vector(const std::string& name, TensorRole role, std::span<accumulator_t<Scalar>> out) const {
        read_full_precision(name, role, {out.data(), 1, static_cast<index_t>(out.size())});
    }
    /// Gives a matrix that every rank has whole its memory, and fills it with the tensor of its shape.
    virtual void fill_whole(const std::string& name, ops::PackedWeights& weights) const {
        weights.allocate();
        fill(name, {weights.rows(), weights.cols(), 0, 0}, weights.matrix());
    }
};

/// Rows are the activations of tokens.
inline constexpr const char* embedding_name = "model.embed_tokens.weight";
inline constexpr const char* head_name = "lm_head.weight";

/// How the files store the matrices of the model.
[[nodiscard]] StoredFormats stored_formats(const io::TensorSource& tensors, const Architecture& architecture);

/// Completes an architecture by what only the files say: how they store matrices, and whether the head really is the
/// embedding, which a head of its own in the files overrules with a warning, as in transformers 5. Throws a usage error
/// that names quantised weights of a kind that is not read, or that scales are missing for.
void fit_to_checkpoint(const io::TensorSource& tensors, Architecture& architecture);

/// Reads from safetensors files, whose experts may be stored one by one or fused: [E, 2I, H] for gate and up, [E, H, I]
/// for down, as transformers 5 holds them. Both arguments must outlive the object.
template <class Scalar>
class CheckpointWeights final : public WeightSource<Scalar> {
public:
    CheckpointWeights(const io::TensorSource& tensors, const Architecture& architecture);
    /// A missing tensor is noted and its part filled with zeros.
    void read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const override;
    /// Codes go as they are to a matrix of their format.
    void fill(const std::string& name, const TensorSlice& part, ops::PackedMatrix out) const override;
    void read_full_precision(const std::string& name, TensorRole role,
                             MatrixView<accumulator_t<Scalar>> out) const override;
    [[nodiscard]] std::string origin(const std::string& name) const override;
    void mark_read_elsewhere(const std::string& name) const override;
    [[nodiscard]] std::uint64_t fingerprint() const override { return tensors_.fingerprint(); }
    [[nodiscard]] std::uint64_t bytes_read() const override { return tensors_.bytes_read(); }

    /// To be called when all was read. Throws an error that lists what is missing, or one for a tensor that was not
    /// asked for though it belongs to a layer, because it would change the results.
    void check_complete() const;
    /// What was not asked for, in one line; empty if that is nothing.
    [[nodiscard]] std::string unused() const;

private:
    /// The matrix that a name stands for: rows of a stored tensor.
    struct Place {
        std::string stored;
        index_t row_begin = 0;
        index_t stored_rows = 0;  ///< of a fused tensor; 0 if the tensor is the matrix
    };

    void place_fused_experts(index_t layer);
    /// Where the tensor lies, under its own name or in a fused one.
    [[nodiscard]] Place place_of(const std::string& name) const;
    /// Where and how the tensor is stored, noted as read; nothing, noted as missing, if the checkpoint does not have
    /// it. Throws if its shape is not the whole one.
    [[nodiscard]] std::optional<StoredMatrix> find(const std::string& name, const TensorSlice& whole,
                                                   Place& place) const;
    /// Whether results are the same without a tensor of a quantised model.
    [[nodiscard]] bool is_without_effect(const std::string& name) const;
    /// Names of tensors that were not read, here or by others.
    [[nodiscard]] std::vector<std::string> unread() const;

    const io::TensorSource& tensors_;
    const Architecture& architecture_;
    std::unordered_map<std::string, Place> renamed_;
    mutable std::mutex mutex_;  ///< of what follows
    mutable std::unordered_set<std::string> read_;
    mutable std::set<std::string> missing_;
};

}  // namespace moesaic::model
