// Where values of options come from: configuration files and the command line.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace moesaic::core {

/// An option as a source has it.
struct GivenOption {
    std::string key;
    std::string value;
    std::string where;  ///< for messages: "FILE:LINE", or "on the command line"
};

/// A [section] line.
struct Section {
    std::string name;
    int line = 0;
};

struct ConfigFile {
    std::vector<Section> sections;
    std::vector<GivenOption> options;  ///< keys with their sections
};

/// Reads an INI file. Lines are "[section]" and "key = value". At the beginning of a line and after a blank, # and ;
/// begin a comment; a value that has one otherwise stands in double quotes, where "" is one of them. Usage errors name
/// file and line: Boost.Program_options, which reads the command line, knows such files, but not the numbers of lines.
[[nodiscard]] ConfigFile read_config_file(const std::filesystem::path& file);

/// The value as such a file has it.
[[nodiscard]] std::string config_value(const std::string& value);

/// A path with the home folder for a leading ~/. A usage error with `key`, whose value it is, and `source` if it has
/// what only a shell replaces: $NAME, ${NAME}, a leading ~NAME. A folder with such a name is written ./~NAME.
[[nodiscard]] std::string expand_path(const std::string& path, const std::string& key, const std::string& source);

struct CommandLine {
    std::vector<GivenOption> options;  ///< in their order, repeated ones too
    std::vector<std::string> words;
};

/// Reads `--key VALUE`, `--key=VALUE`, and words; all that follows `--` are words. A value that begins with two dashes
/// has to be written with the equals sign. `keys`: of options that are known; others come without a value.
[[nodiscard]] CommandLine read_command_line(std::span<const std::string> arguments,
                                            const std::vector<std::string>& keys);

}  // namespace moesaic::core
