// Settings for single modules by name, as PEFT's rank_pattern and alpha_pattern give them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moesaic::model {

/// A list of (regular expression, number). An expression stands for the modules whose whole name, or whose last parts
/// behind a dot, it matches; the first such expression counts.
class ModulePatterns {
public:
    /// Throws a usage error that begins with `source` for what is no regular expression, is longer than 1024 bytes, or
    /// comes with a value that is not positive or beyond all sense.
    void add(const std::string& source, const std::string& pattern, double value);
    /// From "PATTERN=VALUE,PATTERN=VALUE". Usage errors begin with `source`.
    [[nodiscard]] static ModulePatterns parse(const std::string& source, const std::string& text);

    [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
    /// As `parse` takes it.
    [[nodiscard]] std::string text() const;
    /// Throws a usage error for an expression that does not come to an end on the name.
    [[nodiscard]] double value_of(const std::string& module, double otherwise) const;
    /// Expressions that match none of the names.
    [[nodiscard]] std::vector<std::string> unmatched(std::span<const std::string> modules) const;

private:
    class Expression;
    struct Entry {
        std::shared_ptr<const Expression> expression;
        double value;
    };
    std::vector<Entry> entries_;
};

}  // namespace moesaic::model
