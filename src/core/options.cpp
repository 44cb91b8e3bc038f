#include "core/options.hpp"

#include "core/error.hpp"
#include "core/help_text.hpp"
#include "core/option_sources.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <utility>

namespace moesaic::core {

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
    std::vector<std::vector<std::string>> needed;  ///< alternatives, one of which needs a value

    [[nodiscard]] std::vector<std::string> keys() const {
        std::vector<std::string> names;
        std::transform(entries.begin(), entries.end(), std::back_inserter(names), [](const Entry& e) { return e.key; });
        return names;
    }

    [[nodiscard]] auto find(const std::string& key) {
        return std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; });
    }

    [[nodiscard]] bool is_needed(const std::string& key) const {
        return std::any_of(needed.begin(), needed.end(), [&](const auto& names) { return names.front() == key; });
    }

    void require_needed() {
        std::vector<std::string> missing;
        for (const std::vector<std::string>& names : needed) {
            if (std::all_of(names.begin(), names.end(),
                            [&](const auto& name) { return find(name)->write() == find(name)->default_text; })) {
                missing.push_back(names.front());
            }
        }
        require(missing.empty(), ExitCode::usage,
                "{} {} not set ({} no default); write --{} VALUE, or set {} in the configuration file",
                fmt::join(missing, ", "), missing.size() == 1 ? "is" : "are",
                missing.size() == 1 ? "it has" : "they have", fmt::join(missing, " VALUE --"),
                missing.size() == 1 ? "it" : "them");
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
        require(is_utf8(given.value), ExitCode::usage,
                "option {} has a value that is no UTF-8 ({}); results hold it as UTF-8 text, so write, or rename, it "
                "so",
                given.key, given.where);
        require(given.value.find('\n') == std::string::npos, ExitCode::usage,
                "option {} has a value with a line break ({}); results hold it on one line, so write, or rename, it so",
                given.key, given.where);
        entry.read(given.value, given.key, given.where);
        entry.is_set = true;
    }

    void read_file(const std::string& file) {
        config_file = expand_path(file, "config", "on the command line");
        std::map<std::string, std::string> places;
        for (const GivenOption& given : read_config_file(config_file).options) {
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

void OptionSet::need(std::initializer_list<std::string_view> alternatives) {
    std::vector<std::string>& names = implementation_->needed.emplace_back();
    for (const std::string_view name : alternatives) {
        names.push_back(implementation_->prefix + std::string(name));
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
    std::vector<std::string> known = keys();
    known.emplace_back("config");
    CommandLine line = read_command_line(arguments, known);
    const auto options = std::stable_partition(line.options.begin(), line.options.end(),
                                               [](const GivenOption& given) { return given.key == "config"; });
    std::for_each(options, line.options.end(), [&](const GivenOption& given) {
        static_cast<void>(implementation_->known(given.key, given.where));  // before a word that was meant as its value
    });
    std::vector<std::string> files;
    std::transform(line.options.begin(), options, std::back_inserter(files),
                   [](const GivenOption& given) { return given.value; });
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
    implementation_->require_needed();
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

std::string OptionSet::help(std::size_t columns) const {
    const std::vector<Implementation::Entry>& entries = implementation_->entries;
    std::vector<std::pair<std::string, std::string>> groups = {{"needed:\n", ""}, {"", ""}};
    std::size_t longest = 0;
    for (const auto& entry : entries) {
        longest = std::max(longest, entry.key.size());
    }
    for (const auto& entry : entries) {
        const std::size_t dot = entry.key.find('.');
        const std::string title = implementation_->is_needed(entry.key) ? groups[0].first
                                  : dot == std::string::npos            ? groups[1].first
                                                             : fmt::format("[{}]\n", entry.key.substr(0, dot));
        auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == title; });
        if (group == groups.end()) {
            group = groups.insert(group, {title, ""});
        }
        const std::string preset =
            entry.default_text.empty() ? "" : fmt::format(" (default{}{})", no_break, entry.default_text);
        group->second += help_row("--" + entry.key, entry.help + preset, longest + 6, columns);
    }
    std::string text;
    for (const auto& [title, rows] : groups) {
        text += rows.empty() ? "" : "\n" + title + rows;
    }
    return text;
}

}  // namespace moesaic::core
