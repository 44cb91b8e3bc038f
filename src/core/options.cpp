#include "core/options.hpp"

#include "core/error.hpp"
#include "core/option_sources.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <utility>

namespace moesaic::core {
namespace {

const std::string& value_of(const GivenOption& given) {
    require(given.value.has_value(), ExitCode::usage, "option {} needs a value ({}); write --{} VALUE", given.key,
            given.where, given.key);
    return *given.value;
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

    void assign(const GivenOption& given) {
        Entry& entry = known(given.key, given.where);
        const std::string& value = value_of(given);
        require(is_utf8(value), ExitCode::usage,
                "option {} has a value that is no UTF-8 ({}); results hold it as UTF-8 text, so write, or rename, it "
                "so",
                given.key, given.where);
        require(value.find('\n') == std::string::npos, ExitCode::usage,
                "option {} has a value with a line break ({}); results hold it on one line, so write, or rename, it so",
                given.key, given.where);
        entry.read(value, given.key, given.where);
        entry.is_set = true;
    }

    void read_file(const std::filesystem::path& file) {
        config_file = file;
        std::map<std::string, std::string> places;
        for (const GivenOption& given : read_config_file(file).options) {
            if (find(given.key) == entries.end() && ignored_in_files.contains(given.key)) {
                continue;
            }
            const auto [first, is_first] = places.emplace(given.key, given.where);
            require(is_first, ExitCode::usage, "option {} is set twice ({} and {}); remove one", given.key,
                    first->second, given.where);
            assign(given);
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
    implementation_->config_file.clear();
    CommandLine line = read_command_line(arguments);
    const auto options = std::stable_partition(line.options.begin(), line.options.end(),
                                               [](const GivenOption& given) { return given.key == "config"; });
    std::vector<std::string> files;
    std::transform(line.options.begin(), options, std::back_inserter(files), value_of);
    if (first_word_is_config && !line.words.empty()) {
        files.push_back(line.words.front());
        line.words.erase(line.words.begin());
    }
    require(files.size() < 2, ExitCode::usage, "{} configuration files given ({}); give one", files.size(),
            fmt::join(files, ", "));
    for (const std::string& file : files) {
        implementation_->read_file(file);
    }
    std::for_each(options, line.options.end(), [&](const GivenOption& given) { implementation_->assign(given); });
    return line.words;
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
                fmt::format("{} = {}\n", setting.key.substr(dot + 1), config_value(setting.value));
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
