// Options: each is declared once, beside the code that uses it. Parsing, --help, validation and the echo into outputs
// come from that declaration.
#pragma once

#include "core/enumeration.hpp"
#include "core/text.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::core {

/// Throws a usage error that names the key unless it has a value.
void require_set(const std::string& key, const std::string& value);

/// A time as Slurm's --time writes it: "SS", "MM:SS", "HH:MM:SS" or "D-HH:MM:SS".
struct Duration {
    std::string text;    ///< empty: none was given
    double seconds = 0;  ///< positive if one was
};

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
    /// parsed and must outlive the set. T: bool, std::int64_t, double, std::string, Duration.
    template <class T>
    void add(const std::string& key, T& target, const std::string& help, Check<T> check = {});

    /// An integer from 1 to `most`, or "auto", which is 0 in `target`: the program chooses.
    void add_auto(const std::string& key, std::int64_t& target, std::int64_t most, const std::string& help);

    /// One of the names of an enumeration.
    template <NamedEnumeration E>
    void add_enum(const std::string& key, E& target, const std::string& help) {
        add_text(
            key, help, [&target] { return std::string(name_of(target)); },
            [&target](const std::string& text, const std::string& full_key, const std::string& source) {
                target = parse_name<E>(text, full_key, source);
            });
    }
    /// One or several of them, separated by commas.
    template <NamedEnumeration E>
    void add_enum(const std::string& key, std::set<E>& target, const std::string& help) {
        add_text(
            key, help,
            [&target] {
                std::string text;
                for (const E value : target) {
                    text.append(text.empty() ? "" : ",").append(name_of(value));
                }
                return text;
            },
            [&target](const std::string& text, const std::string& full_key, const std::string& source) {
                std::set<E> values;
                for (const std::string& name : split(text)) {
                    values.insert(parse_name<E>(name, full_key, source));
                }
                target = std::move(values);
            });
    }

    /// Any other value: `write` gives it as text, and `read` takes it from a text or throws a usage error with the key
    /// and the source of the text ("on the command line", or a line of a file).
    using Write = std::function<std::string()>;
    using Read = std::function<void(const std::string& text, const std::string& key, const std::string& source)>;
    void add_text(const std::string& key, const std::string& help, Write write, Read read);

    /// Reads `arguments` (without program and command name): `--section.key VALUE`, `--section.key=VALUE`, `--config
    /// FILE`, and words without dashes, which are returned. With `first_word_is_config`, the first of those is a
    /// configuration file too, and not returned. Usage errors name the option, the file and the nearest known key.
    std::vector<std::string> parse(std::span<const std::string> arguments, bool first_word_is_config);

    /// The configuration file that was read, or an empty path.
    [[nodiscard]] const std::filesystem::path& config_file() const noexcept;

    /// Whether `parse` found the option on the command line or in the file, even with the value of its default.
    [[nodiscard]] bool was_set(const std::string& key) const;

    /// One option as it stands, value as text.
    struct Setting {
        std::string key;
        std::string value;
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
OptionSet::Check<std::int64_t> integer_within(std::int64_t minimum, std::int64_t maximum);
OptionSet::Check<double> positive();
OptionSet::Check<double> within(double minimum, double maximum);
OptionSet::Check<std::string> one_of(std::vector<std::string> choices);

/// The candidate with the smallest edit distance to `word`, or an empty string if none is near.
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace moesaic::core
