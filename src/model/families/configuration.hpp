// The `config.json` of a model, as the readers of families see it.
#pragma once

#include "io/json.hpp"
#include "io/known_keys.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

namespace moesaic::model {

using core::index_t;

/// Typed access that names file and key in errors, as the functions of io/json.hpp do. A key that the file does not
/// have has the default of its family; null is Python's None.
class Configuration {
public:
    /// All are referred to. Throws a usage error for a key whose value is not what is computed.
    Configuration(const nlohmann::json& object, const io::KnownKeys& family, const std::string& source);

    template <class Scalar>
    [[nodiscard]] Scalar get(const std::string& key) const {
        return io::get<Scalar>(object_with(key), key, source_);
    }
    /// `none` where the key is null, or missing without a default, here and below.
    template <class Scalar>
    [[nodiscard]] Scalar get_or(const std::string& key, const std::type_identity_t<Scalar>& none) const {
        return io::get_or<Scalar>(object_with(key), key, none, source_);
    }
    [[nodiscard]] index_t get_size(const std::string& key, index_t minimum = 1,
                                   index_t maximum = io::max_json_size) const {
        return io::get_size(object_with(key), key, source_, minimum, maximum);
    }
    [[nodiscard]] index_t get_size_or(const std::string& key, index_t none, index_t minimum = 1,
                                      index_t maximum = io::max_json_size) const {
        return io::get_size_or(object_with(key), key, none, source_, minimum, maximum);
    }
    /// A number in [minimum, maximum]; anything else is an error.
    [[nodiscard]] double get_number(const std::string& key, double minimum, double maximum) const;
    /// None is false, as in Python.
    [[nodiscard]] bool get_flag(const std::string& key) const { return get_or<bool>(key, false); }
    /// Whether the file has the key, and it is not null.
    [[nodiscard]] bool has(const std::string& key) const;

    /// For what depends on other keys: throws a usage error naming the key and its value unless the key is missing,
    /// null, or equal to `supported`.
    void refuse_unless(const std::string& key, const nlohmann::json& supported) const;

    /// Keys of the file that are in no list.
    [[nodiscard]] const std::vector<std::string>& unknown() const { return unknown_; }
    /// For messages.
    [[nodiscard]] const std::string& source() const { return source_; }

private:
    /// The file, or the defaults if only these have the key.
    [[nodiscard]] const nlohmann::json& object_with(const std::string& key) const;

    const nlohmann::json& object_;
    const io::KnownKeys& family_;
    const std::string& source_;
    std::vector<std::string> unknown_;
};

}  // namespace moesaic::model
