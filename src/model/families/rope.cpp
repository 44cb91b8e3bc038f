#include "core/error.hpp"
#include "io/json.hpp"
#include "model/families/common.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace moesaic::model {
namespace {

using core::ExitCode;

/// One of the two generations of RoPE keys: transformers 5 keeps `rope_parameters`; version 4 `rope_scaling` with
/// `rope_theta` and `partial_rotary_factor` beside it, which count in version 5 where the object does not have them.
struct RopeKeys {
    const Configuration& config;
    const std::string& source;
    std::string name;
    nlohmann::json object;

    explicit RopeKeys(const Configuration& whole) : config(whole), source(whole.source()) {
        const nlohmann::json five = object_of("rope_parameters");
        const nlohmann::json four = object_of("rope_scaling");
        // transformers 5 takes rope_scaling then and forgets the rest, the base of the other object among it.
        core::require(
            five.empty() || four.empty() || five == four, ExitCode::usage,
            "{}: rope_parameters and rope_scaling say different things (transformers 5 has the first, version "
            "4 the second); put all of it into one of them and remove the other",
            source);
        name = five.empty() ? "rope_scaling" : "rope_parameters";
        object = five.empty() ? four : five;
        refuse_unknown();
    }
    [[nodiscard]] nlohmann::json object_of(const std::string& key) const {
        auto value = config.get_or<nlohmann::json>(key, nlohmann::json::object());
        core::require(value.is_object(), ExitCode::corrupt_input, "{}: {} is no object; correct the file", source, key);
        return value;
    }
    void refuse_unknown() const {
        constexpr std::array known = {"rope_type",       "type",
                                      "rope_theta",      "partial_rotary_factor",
                                      "factor",          "original_max_position_embeddings",
                                      "beta_fast",       "beta_slow",
                                      "mscale",          "mscale_all_dim",
                                      "truncate",        "attention_factor",
                                      "low_freq_factor", "high_freq_factor"};
        for (const auto& [key, value] : object.items()) {
            core::require(std::find(known.begin(), known.end(), key) != known.end(), ExitCode::usage,
                          "{}: {}.{} is not supported (it is no parameter of the RoPE types that are); use a model "
                          "without it",
                          source, name, core::printable(key, 80));
        }
    }
    /// A positive number of a size that means something; `fallback` where the key is missing.
    [[nodiscard]] double positive(const std::string& key, double fallback) const {
        return checked(key, io::get_or<double>(object, key, fallback, source));
    }
    [[nodiscard]] double positive(const std::string& key) const {
        return checked(key, io::get<double>(object, key, source));
    }
    /// The same, or 0 where the key is missing or zero.
    [[nodiscard]] double optional(const std::string& key) const {
        const auto value = io::get_or<double>(object, key, 0, source);
        return value == 0 ? 0 : checked(key, value);
    }
    [[nodiscard]] double checked(const std::string& key, double value) const {
        constexpr double least = 1e-4;
        constexpr double most = 1e15;
        core::require(value >= least && value <= most, ExitCode::corrupt_input,
                      "{}: {} = {} makes no sense (a number from {} to {} does); correct the file", source, key, value,
                      least, most);
        return value;
    }
    /// A key that version 4 keeps outside of the object.
    [[nodiscard]] double flat(const std::string& key, double fallback) const {
        return positive(key, config.get_or<double>(key, fallback));
    }
};

ops::RopeType read_type(const RopeKeys& keys) {
    const std::array<std::pair<const char*, ops::RopeType>, 5> types = {{{"default", ops::RopeType::standard},
                                                                         {"linear", ops::RopeType::linear},
                                                                         {"dynamic", ops::RopeType::dynamic},
                                                                         {"yarn", ops::RopeType::yarn},
                                                                         {"llama3", ops::RopeType::llama3}}};
    // "type" is the older spelling of "rope_type".
    const auto older = io::get_or<std::string>(keys.object, "type", "default", keys.source);
    const auto name = io::get_or<std::string>(keys.object, "rope_type", older, keys.source);
    const auto found = std::find_if(types.begin(), types.end(), [&](const auto& type) { return name == type.first; });
    core::require(found != types.end(), ExitCode::usage,
                  "{}: {}.rope_type = \"{}\" is not supported (default, linear, dynamic, yarn and llama3 are); use a "
                  "model with one of these",
                  keys.source, keys.name, core::printable(name, 80));
    return found->second;
}

double attention_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void read_yarn(const RopeKeys& keys, ops::RopeSettings& rope) {
    core::require(rope.theta > 1, ExitCode::corrupt_input, "{}: rope_theta = {} must exceed 1; correct the file",
                  keys.source, rope.theta);
    rope.beta_fast = keys.positive("beta_fast", rope.beta_fast);
    rope.beta_slow = keys.positive("beta_slow", rope.beta_slow);
    rope.truncate = io::get_or<bool>(keys.object, "truncate", true, keys.source);
    const double mscale = keys.optional("mscale");
    const double mscale_all_dim = keys.optional("mscale_all_dim");
    const bool both = mscale != 0 && mscale_all_dim != 0;
    const double implied = both ? attention_scale(rope.factor, mscale) / attention_scale(rope.factor, mscale_all_dim)
                                : attention_scale(rope.factor, 1);
    rope.attention_factor = keys.positive("attention_factor", implied);
    if (mscale_all_dim != 0) {
        rope.latent_score_factor = std::pow(attention_scale(rope.factor, mscale_all_dim), 2);
    }
}

void read_llama3(const RopeKeys& keys, ops::RopeSettings& rope) {
    rope.low_frequency_factor = keys.positive("low_freq_factor");
    rope.high_frequency_factor = keys.positive("high_freq_factor");
    core::require(rope.high_frequency_factor > rope.low_frequency_factor, ExitCode::corrupt_input,
                  "{}: high_freq_factor = {} must exceed low_freq_factor = {}; correct the file", keys.source,
                  rope.high_frequency_factor, rope.low_frequency_factor);
}

}  // namespace

ops::RopeSettings read_rope(const Configuration& config, const RopeDefaults& defaults) {
    const RopeKeys keys(config);
    ops::RopeSettings rope;
    rope.type = read_type(keys);
    rope.theta = keys.flat("rope_theta", rope.theta);
    const double fraction = keys.flat("partial_rotary_factor", defaults.partial_rotary_factor);
    core::require(fraction == 1 || (defaults.partial_rotary_factor < 1 && fraction < 1), ExitCode::usage,
                  "{}: partial_rotary_factor = {} is not supported (1 is); use another model", config.source(),
                  fraction);
    rope.size = static_cast<index_t>(static_cast<double>(defaults.head_size) * fraction);
    core::require(
        rope.size > 0 && rope.size % 2 == 0, ExitCode::corrupt_input,
        "{}: {} elements of a head of {} are rotated ({} times partial_rotary_factor = {}; RoPE needs pairs); "
        "correct the file",
        config.source(), rope.size, defaults.head_size, defaults.head_size_key, fraction);
    if (rope.type == ops::RopeType::standard) {
        return rope;
    }
    const index_t positions = config.get_size("max_position_embeddings");
    rope.trained_positions =
        io::get_size_or(keys.object, "original_max_position_embeddings", positions, config.source());
    const double ratio = static_cast<double>(positions) / static_cast<double>(rope.trained_positions);
    rope.factor = rope.type == ops::RopeType::yarn ? keys.positive("factor", ratio) : keys.positive("factor");
    if (rope.type == ops::RopeType::dynamic) {
        rope.trained_positions = positions;
    } else if (rope.type == ops::RopeType::yarn) {
        read_yarn(keys, rope);
    } else if (rope.type == ops::RopeType::llama3) {
        read_llama3(keys, rope);
    }
    return rope;
}

}  // namespace moesaic::model
