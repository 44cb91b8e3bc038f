// Options: each is declared once, beside the code that uses it. Parsing, --help, validation and the echo into outputs
// come from that declaration.
#pragma once

#include "core/enumeration.hpp"
#include "core/text.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moesaic::core {

/// A time as Slurm's --time writes it: "SS", "MM:SS", "HH:MM:SS" or "D-HH:MM:SS".
struct Duration {
    std::string text;    ///< empty: none was given
    double seconds = 0;  ///< positive if one was
};

/// A set of options named "section.key" or, declared before those, "key", read from a configuration file and from the
/// command line (core/option_sources.hpp), where the latter wins.
class OptionSet {
public:
    OptionSet();
    ~OptionSet();
    OptionSet(OptionSet&&) noexcept;
    OptionSet& operator=(OptionSet&&) noexcept;

    /// A condition on a value; returns what is wrong with it ("must be positive"), or an empty string.
    template <class T>
    using Check = std::function<std::string(const T&)>;

    /// An option that was just declared.
    class Declared {
    public:
        /// What it is called elsewhere, without section. Someone who writes such a name is told the option's key, or
        /// `answer` if there is more to say; the names are not accepted.
        void known_as(std::initializer_list<std::string_view> names, std::string_view answer = {}) const;

    private:
        friend OptionSet;
        Declared(OptionSet& set, std::string key) : set_(set), key_(std::move(key)) {}
        OptionSet& set_;
        std::string key_;
    };

    /// What is put before the keys of options that are added from now on.
    void set_prefix(const std::string& prefix);

    /// Declares an option whose default is what `target` holds now; `target` receives the value when arguments are
    /// parsed and must outlive the set. T: bool, std::int64_t, double, std::string, Duration.
    template <class T>
    Declared add(const std::string& key, T& target, const std::string& help, Check<T> check = {});

    /// An integer from 1 to `most`, or "auto", which is 0 in `target`: the program chooses.
    Declared add_auto(const std::string& key, std::int64_t& target, std::int64_t most, const std::string& help);

    /// A path; a leading ~/ becomes the home folder. What else only a shell replaces, $NAME and ~NAME, is an error.
    Declared add_path(const std::string& key, std::string& target, const std::string& help);
    /// One or several of them, separated by commas.
    Declared add_paths(const std::string& key, std::string& target, const std::string& help);

    /// One of the names of an enumeration.
    template <NamedEnumeration E>
    Declared add_enum(const std::string& key, E& target, const std::string& help) {
        return add_text(
            key, help, [&target] { return std::string(name_of(target)); },
            [&target](const std::string& text, const std::string& full_key, const std::string& source) {
                target = parse_name<E>(text, full_key, source);
            });
    }
    /// One or several of them, separated by commas.
    template <NamedEnumeration E>
    Declared add_enum(const std::string& key, std::set<E>& target, const std::string& help) {
        return add_text(
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
    Declared add_text(const std::string& key, const std::string& help, Write write, Read read);

    /// One of these options, declared before or later, needs another value than its default after `parse`. Help begins
    /// with the first of them.
    void need(std::initializer_list<std::string_view> alternatives);

    /// The answer to someone who looks for an option that is not needed here, under one of these names.
    void explain(std::initializer_list<std::string_view> names, std::string_view answer);

    /// Keys that configuration files may have although they are not declared: those of another command that shares the
    /// file. They are not read.
    void ignore_in_files(const std::vector<std::string>& keys);
    [[nodiscard]] std::vector<std::string> keys() const;

    /// Reads `arguments` (without program and command name): options, `--config FILE`, and words, which are returned.
    /// With `first_word_is_config`, the first of those is a configuration file too, and not returned. Of an option that
    /// the command line has several times the last value counts, so that a script can append to the options of another
    /// one; in a file that is an error. Usage errors name the option, the place and the nearest known key, or all
    /// keys without a value that are needed.
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
    /// The text of a configuration file with these settings; those without a value are left out.
    [[nodiscard]] static std::string to_config(const std::vector<Setting>& settings);

    /// Text for --help in lines of at most `columns` characters: what is needed, options without a section, then
    /// sections, all in the order of their declaration.
    [[nodiscard]] std::string help(std::size_t columns) const;

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/// Checks for `OptionSet::add`.
OptionSet::Check<std::int64_t> at_least(std::int64_t minimum);
OptionSet::Check<std::int64_t> integer_within(std::int64_t minimum, std::int64_t maximum);
OptionSet::Check<double> positive();
OptionSet::Check<double> within(double minimum, double maximum);
OptionSet::Check<std::string> one_of(std::vector<std::string> choices);

}  // namespace moesaic::core
