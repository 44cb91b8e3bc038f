// Settings for single modules by name, as PEFT's rank_pattern and alpha_pattern give them.
#pragma once

#include <regex>
#include <string>
#include <vector>

namespace moesaic::model {

/// A list of (regular expression, number). An expression stands for the modules whose whole name, or whose last parts
/// behind a dot, it matches; the first such expression counts.
class ModulePatterns {
public:
    /// Throws a usage error that begins with `source` for what is no regular expression or longer than 256 characters.
    void add(const std::string& source, const std::string& pattern, double value);
    /// From "PATTERN=VALUE,PATTERN=VALUE". Usage errors begin with `source`.
    [[nodiscard]] static ModulePatterns parse(const std::string& source, const std::string& text);

    [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }
    /// What `parse` was given.
    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    [[nodiscard]] double value_of(const std::string& module, double otherwise) const;

private:
    struct Entry {
        std::regex expression;
        double value;
    };
    std::vector<Entry> entries_;
    std::string text_;
};

}  // namespace moesaic::model
