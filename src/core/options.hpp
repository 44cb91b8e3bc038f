// Options: each is declared once, beside the code that uses it. Parsing, --help, validation and the echo into outputs
// come from that declaration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {

/// A set of options named "section.key" or, declared before those, "key", read from an INI file and from the command
/// line, where the latter wins.
class OptionSet {
public:
    OptionSet();
    ~OptionSet();
    OptionSet(OptionSet&&) noexcept;
    OptionSet& operator=(OptionSet&&) noexcept;

    /// A condition on a value; returns what is wrong with it ("must be positive"), or an empty string.
    template <class T>
    using Check = std::function<std::string(const T&)>;

    /// What is put before the keys of options that are added from now on.
    void set_prefix(const std::string& prefix);

    /// Declares an option whose default is what `target` holds now; `target` receives the value when arguments are
    /// parsed and must outlive the set. T: bool, std::int64_t, double, std::string.
    template <class T>
    void add(const std::string& key, T& target, const std::string& help, Check<T> check = {});

    /// Reads `arguments` (without program and command name): `--section.key VALUE`, `--section.key=VALUE`, `--config
    /// FILE`, and words without dashes, which are returned. With `first_word_is_config`, the first of those is a
    /// configuration file too, and not returned. Usage errors name the option, the file and the nearest known key.
    std::vector<std::string> parse(std::span<const std::string> arguments, bool first_word_is_config);

    /// The configuration file that was read, or an empty path.
    [[nodiscard]] const std::filesystem::path& config_file() const noexcept;

    /// One option as it stands, value as text.
    struct Setting {
        std::string key;
        std::string value;
        std::string help;
        bool is_default;
    };
    [[nodiscard]] std::vector<Setting> settings() const;

    /// Text for --help, one paragraph per option, grouped by section.
    [[nodiscard]] std::string help() const;

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/// The names of the [sections] of an INI file, with the numbers of their lines. Throws a usage error for a file that
/// can't be read.
struct Section {
    std::string name;
    int line = 0;
};
[[nodiscard]] std::vector<Section> sections_of(const std::filesystem::path& file);

/// Checks for `OptionSet::add`.
OptionSet::Check<std::int64_t> at_least(std::int64_t minimum);
OptionSet::Check<double> positive();
OptionSet::Check<double> within(double minimum, double maximum);
OptionSet::Check<std::string> one_of(std::vector<std::string> choices);
/// "auto" or an integer of at least `minimum`; see `parse_auto`.
OptionSet::Check<std::string> auto_or_at_least(std::int64_t minimum);

/// The value of an option checked by `auto_or_at_least`: 0 for "auto".
[[nodiscard]] std::int64_t parse_auto(const std::string& value);

/// The candidate with the smallest edit distance to `word`, or an empty string if none is near.
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace moesaic::core
