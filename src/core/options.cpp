#include "core/options.hpp"

#include "core/error.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cctype>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <utility>

namespace moesaic::core {
namespace {

namespace po = boost::program_options;

std::string to_text(bool value) {
    return value ? "true" : "false";
}
std::string to_text(std::int64_t value) {
    return std::to_string(value);
}
std::string to_text(double value) {
    return fmt::format("{}", value);
}
std::string to_text(const std::string& value) {
    return value;
}
std::string to_text(const Duration& value) {
    return value.text;
}

bool from_text(const std::string& text, bool& value) {
    if (text == "true" || text == "yes" || text == "on" || text == "1") {
        value = true;
        return true;
    }
    if (text == "false" || text == "no" || text == "off" || text == "0") {
        value = false;
        return true;
    }
    return false;
}

template <class Number>
bool number_from_text(const std::string& text, Number& value) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end;
}

bool from_text(const std::string& text, std::int64_t& value) {
    return number_from_text(text, value);
}
bool from_text(const std::string& text, double& value) {
    return number_from_text(text, value) && std::isfinite(value);
}
bool from_text(const std::string& text, std::string& value) {
    value = text;
    return true;
}

/// Days before a dash, then at most hours, minutes and seconds.
bool from_text(const std::string& text, Duration& value) {
    const auto dash = text.find('-');
    double days = 0;
    double seconds = 0;
    const auto is_amount = [](const std::string& digits, double& amount) {
        return from_text(digits, amount) && amount >= 0;
    };
    if (dash != std::string::npos && !is_amount(text.substr(0, dash), days)) {
        return false;
    }
    int fields = 0;
    std::istringstream clock(dash == std::string::npos ? text : text.substr(dash + 1));
    for (std::string field; std::getline(clock, field, ':'); ++fields) {
        double amount = 0;
        if (!is_amount(field, amount)) {
            return false;
        }
        seconds = seconds * 60 + amount;
    }
    value = {text, seconds + days * 86400};
    return text.empty() || (fields >= 1 && fields <= 3 && value.seconds > 0);
}

template <class T>
constexpr std::string_view type_name = "text";
template <>
constexpr std::string_view type_name<bool> = "true or false";
template <>
constexpr std::string_view type_name<std::int64_t> = "an integer";
template <>
constexpr std::string_view type_name<double> = "a number";
template <>
constexpr std::string_view type_name<Duration> = "a duration";

std::ifstream open_config_file(const std::filesystem::path& file) {
    std::error_code error;
    const bool is_file = std::filesystem::is_regular_file(file, error);  // before it is opened: a FIFO would wait
    std::ifstream stream;
    if (is_file) {
        stream.open(file);
    }
    require(is_file && stream.good(), ExitCode::usage,
            "can't read the configuration file {} (no such file, or not readable); check the path", file.string());
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";  // editors of Windows put it before UTF-8
    std::string begin(byte_order_mark.size(), '\0');
    stream.read(begin.data(), static_cast<std::streamsize>(begin.size()));
    if (begin != byte_order_mark) {
        stream.clear();
        stream.seekg(0);
    }
    return stream;
}

/// Where in an INI file `section.key` is set, for messages; the file's name alone if it can't be found.
std::string location(const std::filesystem::path& file, const std::string& key) {
    std::ifstream stream = open_config_file(file);
    std::string line;
    std::string section;
    for (int number = 1; std::getline(stream, line); ++number) {
        line.erase(std::remove_if(line.begin(), line.end(), [](unsigned char c) { return std::isspace(c) != 0; }),
                   line.end());
        if (line.size() > 2 && line.front() == '[') {
            section = line.substr(1, line.find(']') - 1) + ".";
        } else if (section + line.substr(0, line.find('=')) == key) {
            return fmt::format("{}:{}", file.string(), number);
        }
    }
    return file.string();
}

/// The last of several values for the same key, so that a script can append to the options of another one.
std::vector<po::option> last_of_each(const std::vector<po::option>& options) {
    std::vector<po::option> last;
    for (const po::option& option : options) {
        std::erase_if(last, [&](const po::option& other) { return other.string_key == option.string_key; });
        last.push_back(option);
    }
    return last;
}

}  // namespace

struct OptionSet::Implementation {
    struct Entry {
        std::string key;
        std::string help;
        std::string default_text;
        Write write;
        Read read;
        bool is_set = false;
    };

    std::vector<Entry> entries;
    std::string prefix;
    std::filesystem::path config_file;

    std::map<std::string, std::string, std::less<>> answers;  ///< to names that other programs use
    std::set<std::string> ignored_in_files;

    [[nodiscard]] std::vector<std::string> keys() const {
        std::vector<std::string> names;
        std::transform(entries.begin(), entries.end(), std::back_inserter(names), [](const Entry& e) { return e.key; });
        return names;
    }

    [[nodiscard]] auto find(const std::string& key) {
        return std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; });
    }

    /// What someone meant who wrote `key`.
    [[nodiscard]] std::string suggestion(const std::string& key) const {
        const std::size_t dot = key.rfind('.');
        std::string name = key.substr(dot == std::string::npos ? 0 : dot + 1);
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::tolower(c)); });
        if (const auto answer = answers.find(name); answer != answers.end()) {
            return answer->second;
        }
        // In the same section only the name can be misspelt; otherwise the section may be.
        const std::string section = key.substr(0, key.size() - name.size());
        std::vector<std::string> names;
        for (const Entry& entry : entries) {
            if (entry.key.starts_with(section)) {
                names.push_back(entry.key.substr(section.size()));
            }
        }
        std::string near = nearest(name, names);
        near = near.empty() ? nearest(key, keys()) : section + near;
        return near.empty() ? "--help lists all options" : fmt::format("did you mean {}?", near);
    }

    [[nodiscard]] Entry& known(const std::string& key, const std::string& origin) {
        const auto found = find(key);
        if (found == entries.end()) {
            fail(ExitCode::usage, "unknown option {} ({}); {}", key, origin, suggestion(key));
        }
        return *found;
    }

    /// Assigns options of one source, in which each may be set once.
    void apply(const std::vector<po::option>& options, const std::function<std::string(const std::string&)>& origin) {
        std::set<std::string> assigned;
        for (const po::option& option : options) {
            const std::string where = origin(option.string_key);
            require(assigned.insert(option.string_key).second, ExitCode::usage,
                    "option {} is set twice ({}); remove one", option.string_key, where);
            require(is_utf8(option.value.empty() ? "" : option.value.front()), ExitCode::usage,
                    "option {} has a value that is no UTF-8 ({}); results hold it as UTF-8 text, so write, or rename, "
                    "it so",
                    option.string_key, where);
            require(option.value.size() == 1, ExitCode::usage, "option {} needs one value ({}); write --{} VALUE",
                    option.string_key, where, option.string_key);
            Entry& entry = known(option.string_key, where);
            entry.read(option.value.front(), option.string_key, where);
            entry.is_set = true;
        }
    }

    void read_config_file(const std::filesystem::path& file) {
        require(config_file.empty(), ExitCode::usage, "two configuration files given ({} and {}); give one",
                config_file.string(), file.string());
        config_file = file;
        std::ifstream stream = open_config_file(file);
        try {
            auto parsed = po::parse_config_file(stream, po::options_description(), true);
            std::erase_if(parsed.options, [&](const po::option& option) {
                return find(option.string_key) == entries.end() && ignored_in_files.contains(option.string_key);
            });
            apply(parsed.options, [&](const std::string& key) { return location(file, key); });
        } catch (const po::error& error) {
            fail(ExitCode::usage, "can't parse {} ({}); write [section] lines and key = value lines", file.string(),
                 error.what());
        }
    }
};

OptionSet::OptionSet() : implementation_(std::make_unique<Implementation>()) {}
OptionSet::~OptionSet() = default;
OptionSet::OptionSet(OptionSet&&) noexcept = default;
OptionSet& OptionSet::operator=(OptionSet&&) noexcept = default;

void OptionSet::set_prefix(const std::string& prefix) {
    implementation_->prefix = prefix;
}

OptionSet::Declared OptionSet::add_text(const std::string& key, const std::string& help, Write write, Read read) {
    std::string preset = write();
    std::string full_key = implementation_->prefix + key;
    implementation_->entries.push_back({full_key, help, std::move(preset), std::move(write), std::move(read), false});
    return {*this, std::move(full_key)};
}

void OptionSet::Declared::known_as(std::initializer_list<std::string_view> names, std::string_view answer) const {
    set_.explain(names, answer.empty() ? fmt::format("here it is {}", key_) : fmt::format("see {}: {}", key_, answer));
}

void OptionSet::explain(std::initializer_list<std::string_view> names, std::string_view answer) {
    for (const std::string_view name : names) {
        implementation_->answers.emplace(name, answer);
    }
}

void OptionSet::ignore_in_files(const std::vector<std::string>& keys) {
    implementation_->ignored_in_files.insert(keys.begin(), keys.end());
}

std::vector<std::string> OptionSet::keys() const {
    return implementation_->keys();
}

template <class T>
OptionSet::Declared OptionSet::add(const std::string& key, T& target, const std::string& help, Check<T> check) {
    return add_text(
        key, help, [&target] { return to_text(target); },
        [&target, check = std::move(check)](const std::string& text, const std::string& full_key,
                                            const std::string& source) {
            T value{};
            require(from_text(text, value), ExitCode::usage, "{} = {} is not {} ({}); correct the value", full_key,
                    text, type_name<T>, source);
            if (check) {
                const std::string problem = check(value);
                require(problem.empty(), ExitCode::usage, "{} = {} {} ({}); correct the value", full_key, text, problem,
                        source);
            }
            target = std::move(value);
        });
}

template OptionSet::Declared OptionSet::add(const std::string&, bool&, const std::string&, Check<bool>);
template OptionSet::Declared OptionSet::add(const std::string&, std::int64_t&, const std::string&, Check<std::int64_t>);
template OptionSet::Declared OptionSet::add(const std::string&, double&, const std::string&, Check<double>);
template OptionSet::Declared OptionSet::add(const std::string&, std::string&, const std::string&, Check<std::string>);
template OptionSet::Declared OptionSet::add(const std::string&, Duration&, const std::string&, Check<Duration>);

OptionSet::Declared OptionSet::add_auto(const std::string& key, std::int64_t& target, std::int64_t most,
                                        const std::string& help) {
    return add_text(
        key, help, [&target] { return target == 0 ? "auto" : to_text(target); },
        [&target, most](const std::string& text, const std::string& full_key, const std::string& source) {
            std::int64_t value = 0;
            require(text == "auto" || (from_text(text, value) && value >= 1 && value <= most), ExitCode::usage,
                    "{} = {} must be auto or an integer between 1 and {} ({}); correct the value", full_key, text, most,
                    source);
            target = value;
        });
}

std::vector<std::string> OptionSet::parse(std::span<const std::string> arguments, bool first_word_is_config) {
    namespace style = po::command_line_style;
    implementation_->config_file.clear();
    std::vector<std::string> words;
    std::vector<po::option> options;
    try {
        po::options_description known;
        for (const auto& entry : implementation_->entries) {
            known.add_options()(entry.key.c_str(), po::value<std::string>());
        }
        known.add_options()("config", po::value<std::string>());
        const auto parsed = po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()))
                                .options(known)
                                .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
                                .allow_unregistered()
                                .run();
        for (const po::option& option : parsed.options) {
            if (option.unregistered) {
                static_cast<void>(implementation_->known(option.string_key, "on the command line"));
            }
            if (option.position_key >= 0) {
                words.insert(words.end(), option.value.begin(), option.value.end());
            } else if (option.string_key == "config") {
                implementation_->read_config_file(option.value.front());
            } else {
                options.push_back(option);
            }
        }
    } catch (const po::error& error) {
        fail(ExitCode::usage, "can't parse the command line ({}); options are written --section.key VALUE",
             error.what());
    }
    if (first_word_is_config && !words.empty()) {
        implementation_->read_config_file(words.front());
        words.erase(words.begin());
    }
    implementation_->apply(last_of_each(options),
                           [](const std::string&) { return std::string("on the command line"); });
    return words;
}

const std::filesystem::path& OptionSet::config_file() const noexcept {
    return implementation_->config_file;
}

bool OptionSet::was_set(const std::string& key) const {
    return std::any_of(implementation_->entries.begin(), implementation_->entries.end(),
                       [&](const auto& entry) { return entry.key == key && entry.is_set; });
}

std::vector<OptionSet::Setting> OptionSet::settings() const {
    std::vector<Setting> settings;
    for (const auto& entry : implementation_->entries) {
        settings.push_back({entry.key, entry.write()});
    }
    return settings;
}

std::string OptionSet::to_config(const std::vector<Setting>& settings) {
    std::map<std::string, std::string> sections;
    for (const Setting& setting : settings) {
        const std::size_t dot = setting.key.find('.');
        if (!setting.value.empty() && dot != std::string::npos) {
            sections[setting.key.substr(0, dot)] +=
                fmt::format("{} = {}\n", setting.key.substr(dot + 1), setting.value);
        }
    }
    std::string text;
    for (const auto& [name, lines] : sections) {
        text += fmt::format("{}[{}]\n{}", text.empty() ? "" : "\n", name, lines);
    }
    return text;
}

std::string OptionSet::help() const {
    std::string text;
    std::string section;
    for (const auto& entry : implementation_->entries) {
        const std::size_t dot = entry.key.find('.');
        const std::string this_section = dot == std::string::npos ? "" : entry.key.substr(0, dot);
        if (this_section != section) {
            section = this_section;
            text += fmt::format("\n[{}]\n", section);
        }
        const std::string preset = entry.default_text.empty() ? "" : fmt::format(" (default {})", entry.default_text);
        text += fmt::format("  --{:<26} {}{}\n", entry.key, entry.help, preset);
    }
    return text;
}

std::vector<Section> sections_of(const std::filesystem::path& file) {
    std::ifstream stream = open_config_file(file);
    std::vector<Section> sections;
    std::string line;
    for (int number = 1; std::getline(stream, line); ++number) {
        const std::size_t begin = line.find_first_not_of(" \t");
        const std::size_t end = line.find(']');
        if (begin != std::string::npos && line[begin] == '[') {
            require(end != std::string::npos, ExitCode::usage,
                    "{}:{}: {} is no section (the bracket ] is missing); add it", file.string(), number,
                    line.substr(begin));
            sections.push_back({line.substr(begin + 1, end - begin - 1), number});
        }
    }
    return sections;
}

OptionSet::Check<std::int64_t> at_least(std::int64_t minimum) {
    return [minimum](const std::int64_t& value) {
        return value >= minimum ? std::string() : fmt::format("must be at least {}", minimum);
    };
}

OptionSet::Check<std::int64_t> integer_within(std::int64_t minimum, std::int64_t maximum) {
    return [minimum, maximum](const std::int64_t& value) {
        return value >= minimum && value <= maximum ? std::string()
                                                    : fmt::format("must be between {} and {}", minimum, maximum);
    };
}

OptionSet::Check<double> positive() {
    return [](const double& value) { return value > 0 ? std::string() : std::string("must be positive"); };
}

OptionSet::Check<double> within(double minimum, double maximum) {
    return [minimum, maximum](const double& value) {
        return value >= minimum && value <= maximum ? std::string()
                                                    : fmt::format("must be between {} and {}", minimum, maximum);
    };
}

OptionSet::Check<std::string> one_of(std::vector<std::string> choices) {
    return [choices = std::move(choices)](const std::string& value) {
        if (std::find(choices.begin(), choices.end(), value) != choices.end()) {
            return std::string();
        }
        return fmt::format("must be one of {}", fmt::join(choices, ", "));
    };
}

void require_set(const std::vector<std::pair<std::string, std::string>>& keys_and_values) {
    std::vector<std::string> missing;
    for (const auto& [key, value] : keys_and_values) {
        if (value.empty()) {
            missing.push_back(key);
        }
    }
    require(missing.empty(), ExitCode::usage,
            "{} {} not set ({} no default); write --{} VALUE, or set {} in the configuration file",
            fmt::join(missing, ", "), missing.size() == 1 ? "is" : "are", missing.size() == 1 ? "it has" : "they have",
            fmt::join(missing, " VALUE --"), missing.size() == 1 ? "it" : "them");
}

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
    const auto distance = [](std::string_view a, std::string_view b) {
        std::vector<std::size_t> row(b.size() + 1);
        std::iota(row.begin(), row.end(), std::size_t{0});
        for (std::size_t i = 1; i <= a.size(); ++i) {
            std::size_t diagonal = row[0];
            row[0] = i;
            for (std::size_t j = 1; j <= b.size(); ++j) {
                const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
            }
        }
        return row.back();
    };
    std::string best;
    std::size_t best_distance = word.size() / 3 + 2;  // more would be guessing
    for (const std::string& candidate : candidates) {
        const std::size_t d = distance(word, candidate);
        if (d < best_distance) {
            best = candidate;
            best_distance = d;
        }
    }
    return best;
}

}  // namespace moesaic::core
