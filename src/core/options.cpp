#include "core/options.hpp"

#include "core/error.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <utility>

namespace moesaic::core {
namespace {

namespace po = boost::program_options;

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

}  // namespace moesaic::core
