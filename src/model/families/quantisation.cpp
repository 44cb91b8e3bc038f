#include "model/families/quantisation.hpp"

#include "core/error.hpp"
#include "core/text.hpp"
#include "io/json.hpp"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>

namespace moesaic::model {
namespace {

using core::ExitCode;
using nlohmann::json;
using ops::WeightFormat;

/// One quantization_config, with errors that name its file.
class QuantisationReader {
public:
    QuantisationReader(const json& settings, const std::string& source) : settings_(settings), source_(source) {}

    [[nodiscard]] Quantisation read() const {
        struct Method {
            std::string_view name;
            QuantisationMethod method;
            void (QuantisationReader::*read)(Quantisation&) const;
        };
        static constexpr std::array methods = {
            Method{"fp8", QuantisationMethod::fp8, &QuantisationReader::read_fp8},
            Method{"mxfp4", QuantisationMethod::mxfp4, &QuantisationReader::read_mxfp4},
            Method{"gptq", QuantisationMethod::gptq, &QuantisationReader::read_gptq},
            Method{"awq", QuantisationMethod::awq, &QuantisationReader::read_awq},
            Method{"compressed-tensors", QuantisationMethod::compressed_tensors,
                   &QuantisationReader::read_compressed_tensors},
            Method{"modelopt", QuantisationMethod::modelopt, &QuantisationReader::read_modelopt}};
        const auto name = io::get<std::string>(settings_, "quant_method", source_);
        const auto* found =
            std::find_if(methods.begin(), methods.end(), [&](const Method& method) { return method.name == name; });
        if (found == methods.end()) {
            std::vector<std::string_view> known;
            std::transform(methods.begin(), methods.end(), std::back_inserter(known),
                           [](const Method& method) { return method.name; });
            core::fail(ExitCode::usage,
                       "{}: quant_method \"{}\" is not supported (weights quantised by {} are read); use the model's "
                       "original weights, or convert them",
                       source_, core::printable(name, 80), fmt::join(known, ", "));
        }
        Quantisation result;
        result.method = found->method;
        result.source = source_;
        std::invoke(found->read, *this, result);
        result.projections = leaves_attention_out() ? std::nullopt : result.experts;
        return result;
    }

private:
    static constexpr index_t largest_group = index_t{1} << 20;

    [[noreturn]] void refuse(const std::string& what) const {
        core::fail(ExitCode::usage,
                   "{}: quantised weights with {} are not supported; use the model's original weights, or convert "
                   "them",
                   source_, core::printable(what, 120));
    }
    /// Refuses any other value than those of the list; the first one is that of a missing key.
    void require_one_of(const json& object, const char* key, std::initializer_list<const char*> supported) const {
        const auto value = io::get_or<std::string>(object, key, *supported.begin(), source_);
        if (std::find(supported.begin(), supported.end(), value) == supported.end()) {
            refuse(fmt::format("{} = {}", key, value));
        }
    }
    void refuse_object(const char* key) const {
        const auto value = io::get_or<json>(settings_, key, json(), source_);
        if (!value.is_null() && !value.empty() &&
            !(value.is_object() && io::get_or<std::string>(value, "format", "", source_) == "dense")) {
            refuse(key);
        }
    }
    [[nodiscard]] index_t read_bits(const json& object, const char* key,
                                    std::initializer_list<index_t> supported) const {
        const index_t bits = io::get_size(object, key, source_, 1, 64);
        if (std::find(supported.begin(), supported.end(), bits) == supported.end()) {
            refuse(fmt::format("{} = {}", key, bits));
        }
        return bits;
    }
    /// `group_size` columns of a row, all of them if it is -1.
    [[nodiscard]] ScaleGroup group_of_row(const json& object) const {
        const auto size = io::get<std::int64_t>(object, "group_size", source_);
        core::require(size == -1 || (size > 0 && size <= largest_group), ExitCode::corrupt_input,
                      "{}: group_size = {} makes no sense (a positive number of columns or -1 does); correct the file",
                      source_, size);
        return {1, std::max<index_t>(size, 0)};
    }
    [[nodiscard]] ScaleGroup block_of(const json& object, const char* key) const {
        const auto sizes = io::get<std::vector<index_t>>(object, key, source_);
        core::require(
            sizes.size() == 2 &&
                std::all_of(sizes.begin(), sizes.end(), [](index_t s) { return s > 0 && s <= largest_group; }),
            ExitCode::corrupt_input, "{}: {} = [{}] makes no sense (rows and columns of a block do); correct the file",
            source_, key, fmt::join(sizes, ", "));
        return {sizes[0], sizes[1]};
    }

    /// Whether a list of modules that are not quantised has those of attention.
    [[nodiscard]] bool leaves_attention_out() const {
        for (const char* key : {"modules_to_not_convert", "ignore", "exclude_modules"}) {
            const auto names = io::get_or<json>(settings_, key, json::array(), source_);
            if (std::any_of(names.begin(), names.end(), [](const json& name) {
                    return name.is_string() && name.get<std::string>().find("attn") != std::string::npos;
                })) {
                return true;
            }
        }
        return false;
    }

    void read_fp8(Quantisation& result) const {
        result.experts = WeightFormat::fp8;
        constexpr index_t usual = 128;  // of transformers' FineGrainedFP8Config
        if (!settings_.contains("weight_block_size")) {
            result.groups = {{usual, usual}};
        } else if (settings_["weight_block_size"].is_null()) {
            result.groups = {{0, 0}, {1, 0}};
        } else {
            result.groups = {block_of(settings_, "weight_block_size")};
        }
    }
    void read_mxfp4(Quantisation& result) const {
        result.groups = {{1, 32}};
        result.experts = WeightFormat::mxfp4;
    }
    void read_gptq(Quantisation& result) const {
        result.bits = read_bits(settings_, "bits", {4, 8});
        result.reorders_columns = io::get_or<bool>(settings_, "desc_act", false, source_);
        result.experts = result.bits == 4 ? std::optional(WeightFormat::uint4) : std::nullopt;
        require_one_of(settings_, "checkpoint_format", {"gptq", "gptq_v2"});
        result.zero_offset = io::get_or<std::string>(settings_, "checkpoint_format", "gptq", source_) == "gptq" ? 1 : 0;
        result.groups = {group_of_row(settings_)};
    }
    void read_awq(Quantisation& result) const {
        result.bits = read_bits(settings_, settings_.contains("w_bit") ? "w_bit" : "bits", {4});
        require_one_of(settings_, "version", {"gemm", "GEMM"});
        result.experts = WeightFormat::uint4;
        result.groups = {group_of_row(settings_)};
    }
    void read_modelopt(Quantisation& result) const {
        const auto algorithm = io::get<std::string>(settings_, "quant_algo", source_);
        const ScaleGroup whole = {0, 0};
        const ScaleGroup nvfp4 = {1, 16};
        result.experts = algorithm.starts_with("FP8") ? WeightFormat::fp8 : WeightFormat::nvfp4;
        if (algorithm == "FP8") {
            result.groups = {whole};
        } else if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") {
            result.groups = {{1, 0}};
        } else if (algorithm == "NVFP4") {
            result.groups = {nvfp4};
        } else if (algorithm == "MIXED_PRECISION") {
            result.groups = {nvfp4, whole};
        } else {
            refuse("quant_algo = " + algorithm);
        }
    }
    void read_compressed_tensors(Quantisation& result) const {
        require_one_of(settings_, "format",
                       {"dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
                        "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision"});
        refuse_object("sparsity_config");
        refuse_object("transform_config");
        const auto groups = io::get<json>(settings_, "config_groups", source_);
        core::require(groups.is_object() && !groups.empty(), ExitCode::corrupt_input,
                      "{}: config_groups names no weights (it is empty or no object); get the file again", source_);
        for (const auto& item : groups.items()) {
            const auto weights = io::get_or<json>(item.value(), "weights", json(), source_);
            if (!weights.is_null()) {
                result.bits = read_bits(weights, "num_bits", {4, 8});
                result.groups.push_back(group_of_scheme(weights));
                result.reorders_columns = result.reorders_columns || weights.contains("actorder");
                const bool is_float = io::get_or<std::string>(weights, "type", "int", source_) == "float";
                const bool symmetric = io::get_or<bool>(weights, "symmetric", true, source_);
                result.experts = result.bits == 8 ? (is_float ? WeightFormat::fp8 : WeightFormat::int8)
                                 : !is_float      ? (symmetric ? WeightFormat::int4 : WeightFormat::uint4)
                                 : result.groups.back().cols == ops::kernel_block ? WeightFormat::mxfp4
                                                                                  : WeightFormat::nvfp4;
            }
        }
        core::require(!result.groups.empty(), ExitCode::corrupt_input,
                      "{}: config_groups quantises no weights (none of its groups has any); get the file again",
                      source_);
    }
    /// QuantizationArgs of compressed-tensors.
    [[nodiscard]] ScaleGroup group_of_scheme(const json& weights) const {
        require_one_of(weights, "type", {"int", "float"});
        const bool has_group = io::get_or<json>(weights, "group_size", json(), source_).is_number();
        const auto strategy = io::get_or<std::string>(weights, "strategy", has_group ? "group" : "tensor", source_);
        if (strategy == "tensor") {
            return {0, 0};
        }
        if (strategy == "channel") {
            return {1, 0};
        }
        if (strategy == "group" || strategy == "tensor_group") {
            return group_of_row(weights);
        }
        if (strategy == "block") {
            return block_of(weights, "block_structure");
        }
        refuse("strategy = " + strategy);
    }

    const json& settings_;
    const std::string& source_;
};

/// What a program wrote beside config.json.
struct SeparateFile {
    const char* name;
    const char* method;
    const char* member;  ///< that holds the settings; empty: the whole file
};
constexpr std::array separate_files = {SeparateFile{"hf_quant_config.json", "modelopt", "quantization"},
                                       SeparateFile{"quantize_config.json", "gptq", ""}};

}  // namespace

Quantisation read_quantisation(const json& config, const std::string& source) {
    const auto settings = io::get_or<json>(config, "quantization_config", json(), source);
    return settings.is_null() ? Quantisation() : QuantisationReader(settings, source + ": quantization_config").read();
}

Quantisation read_quantisation(const json& config, const std::filesystem::path& folder) {
    const Quantisation found = read_quantisation(config, (folder / "config.json").string());
    if (found.method != QuantisationMethod::none) {
        return found;
    }
    for (const SeparateFile& file : separate_files) {
        const std::filesystem::path path = folder / file.name;
        std::error_code error;
        if (std::filesystem::exists(path, error)) {
            json settings = io::read_json(path);
            if (*file.member != '\0') {
                settings = io::get<json>(settings, file.member, path.string());
            }
            core::require(settings.is_object(), ExitCode::corrupt_input,
                          "{}: the settings of quantised weights are no object; get the file again", path.string());
            settings.emplace("quant_method", file.method);
            return QuantisationReader(settings, path.string()).read();
        }
    }
    return found;
}

}  // namespace moesaic::model
