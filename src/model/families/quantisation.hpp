// How config.json says that the weights of a checkpoint were quantised. docs/formats.md has the methods and origins.
#pragma once

#include "core/matrix.hpp"
#include "ops/weights/weight_format.hpp"

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moesaic::model {

using core::index_t;

/// `quant_method` of transformers.
enum class QuantisationMethod : std::uint8_t { none, fp8, mxfp4, gptq, awq, compressed_tensors, modelopt };

/// Elements of a matrix [out, in] that share a scale: `rows` x `cols` of them; 0 stands for all.
struct ScaleGroup {
    index_t rows = 1;
    index_t cols = 0;
};

struct Quantisation {
    QuantisationMethod method = QuantisationMethod::none;
    std::vector<ScaleGroup> groups;  ///< matrices have one of them each
    index_t bits = 4;                ///< of codes in words, where nothing else says how many
    index_t zero_offset = 0;         ///< what stored zero points lack: GPTQ's first version subtracts one
    bool reorders_columns = false;   ///< groups are not of neighbouring columns: "act-order"
    std::string source;              ///< the file that says so, for messages
    /// Where files are not at hand: what routed experts, and all other projections, are most likely stored in.
    std::optional<ops::WeightFormat> experts;
    std::optional<ops::WeightFormat> projections;
};

/// Reads `quantization_config`. A method or variant that is not read is refused by name.
[[nodiscard]] Quantisation read_quantisation(const nlohmann::json& config, const std::string& source);
/// The same of what ModelOpt and AutoGPTQ write beside config.json, if `config` says nothing.
[[nodiscard]] Quantisation read_quantisation(const nlohmann::json& config, const std::filesystem::path& folder);

}  // namespace moesaic::model
