// The `config.json` of a model, as the readers of families see it.
#pragma once

#include "io/json.hpp"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <type_traits>

namespace moesaic::model {

using core::index_t;

/// Typed access that names file and key in errors, as the functions of io/json.hpp do, and remembers what was read:
/// what is left may be a feature that nobody computes.
class Configuration {
public:
    /// Both are referred to.
    Configuration(const nlohmann::json& object, const std::string& source) : object_(object), source_(source) {}

    template <class Scalar>
    [[nodiscard]] Scalar get(const std::string& key) const {
        return io::get<Scalar>(object_, read(key), source_);
    }
    /// `fallback` where the key is missing or null, here and below.
    template <class Scalar>
    [[nodiscard]] Scalar get_or(const std::string& key, const std::type_identity_t<Scalar>& fallback) const {
        return io::get_or<Scalar>(object_, read(key), fallback, source_);
    }
    [[nodiscard]] index_t get_size(const std::string& key, index_t minimum = 1,
                                   index_t maximum = io::max_json_size) const {
        return io::get_size(object_, read(key), source_, minimum, maximum);
    }
    [[nodiscard]] index_t get_size_or(const std::string& key, index_t fallback, index_t minimum = 1,
                                      index_t maximum = io::max_json_size) const {
        return io::get_size_or(object_, read(key), fallback, source_, minimum, maximum);
    }
    /// Whether the key is there and not null.
    [[nodiscard]] bool has(const std::string& key) const;

    /// Refuses a feature that would change the mathematics: throws a usage error naming the key and its value unless
    /// the key is missing, null, or equal to `supported`.
    void refuse_unless(const std::string& key, const nlohmann::json& supported) const;
    /// Throws a usage error naming the first key that nobody has read, unless its value says "off" (null, false, zero,
    /// nothing), its name does not sound like a part of the model, or it is known to say nothing about what the model
    /// computes; names that begin with "_" are notes of transformers to itself.
    void refuse_unread() const;

    /// For messages.
    [[nodiscard]] const std::string& source() const { return source_; }

private:
    const std::string& read(const std::string& key) const { return *read_.insert(key).first; }

    const nlohmann::json& object_;
    const std::string& source_;
    mutable std::set<std::string> read_;
};

}  // namespace moesaic::model
