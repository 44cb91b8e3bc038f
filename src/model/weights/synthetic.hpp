// Models without files: architectures of known models, and random weights that any rank can make for itself.
#pragma once

#include "model/families/architecture.hpp"
#include "model/weights/weights.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::model {

/// Names that `synthetic_architecture` knows.
[[nodiscard]] std::vector<std::string> synthetic_names();
/// The architecture of a published model, or of the reference benchmark. Throws a usage error that names the nearest
/// one, and the option that the name was given for, if there is none of this name.
[[nodiscard]] Architecture synthetic_architecture(std::string_view name, std::string_view option = "model.synthetic");

/// What the scores of an expert are multiplied with to have experts chosen unevenly: 1 + skew for the first one,
/// falling to 1 for the last one. Where K of E are chosen, larger scores of both signs make an expert's more often the
/// largest.
[[nodiscard]] double router_scale(index_t expert, index_t experts, double skew);
/// The part of all choices that each expert then gets, by drawing scores.
[[nodiscard]] std::vector<double> skewed_popularity(index_t experts, index_t choices, double skew);

/// Random weights of mean 0 whose variance keeps that of activations; norms are ones, biases zero. All are BF16 values,
/// so that Scalar does not matter. A value depends on seed, tensor and place in the whole tensor alone: slices of
/// different ranks fit together. Scalar: bf16 or float.
template <class Scalar>
class SyntheticWeights final : public WeightSource<Scalar> {
public:
    explicit SyntheticWeights(std::uint64_t seed, double router_skew = 0) : seed_(seed), router_skew_(router_skew) {}
    void read(const std::string& name, const TensorSlice& part, MatrixView<Scalar> out) const override;
    void read_full_precision(const std::string& name, TensorRole role,
                             MatrixView<accumulator_t<Scalar>> out) const override;
    [[nodiscard]] std::uint64_t fingerprint() const override { return seed_; }

private:
    std::uint64_t seed_;
    double router_skew_;
};

}  // namespace moesaic::model
