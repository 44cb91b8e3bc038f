#include "core/option_sources.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <string_view>

namespace moesaic::core {
namespace {

constexpr std::string_view blanks = " \t\r\f\v";
constexpr std::string_view comment_signs = "#;";

std::string_view trim(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(blanks);
    return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

bool is_empty_or_comment(std::string_view trimmed) {
    return trimmed.empty() || comment_signs.find(trimmed.front()) != std::string_view::npos;
}

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

/// What is between the brackets of a trimmed line that begins with one.
std::string section_of(std::string_view line, const std::string& where) {
    const std::size_t end = line.find(']');
    require(end != std::string_view::npos, ExitCode::usage, "{}: {} is no section (the bracket ] is missing); add it",
            where, printable(line));
    require(is_empty_or_comment(trim(line.substr(end + 1))), ExitCode::usage,
            "{}: {} has more than a section (settings have lines of their own); break the line after ]", where,
            printable(line));
    return std::string(trim(line.substr(1, end - 1)));
}

/// The value of a trimmed text that begins with a quote.
std::string unquoted(std::string_view text, const std::string& where) {
    std::string value;
    std::size_t i = 1;
    for (; i < text.size(); ++i) {
        if (text[i] == '"') {
            if (!text.substr(i + 1).starts_with('"')) {
                break;
            }
            ++i;
        }
        value += text[i];
    }
    require(i < text.size() && is_empty_or_comment(trim(text.substr(i + 1))), ExitCode::usage,
            "{}: the value {} begins with a quote and does not end with one (a quote within is written twice); correct "
            "it",
            where, printable(text));
    return value;
}

/// The value of what stands behind an equals sign.
std::string value_of(std::string_view text, const std::string& where) {
    const std::string_view trimmed = trim(text);
    if (trimmed.starts_with('"')) {
        return unquoted(trimmed, where);
    }
    const std::size_t sign = text.find_first_of(comment_signs);
    require(sign == std::string_view::npos || sign == 0 || blanks.find(text[sign - 1]) != std::string_view::npos,
            ExitCode::usage,
            "{}: the value {} has {} in it (a comment needs a blank before it); put one there, or the value in double "
            "quotes",
            where, printable(trimmed), text.substr(sign == std::string_view::npos ? 0 : sign, 1));
    return std::string(trim(text.substr(0, sign)));
}

/// The name behind the first $ that a shell would replace, or an empty text.
std::string variable_in(const std::string& text) {
    const auto is_of_name = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
    for (std::size_t dollar = text.find('$'); dollar != std::string::npos; dollar = text.find('$', dollar + 1)) {
        const auto begin = text.begin() + static_cast<std::ptrdiff_t>(dollar) + (text[dollar + 1] == '{' ? 2 : 1);
        const auto end = std::find_if_not(begin, text.end(), is_of_name);
        if (begin != end && std::isdigit(static_cast<unsigned char>(*begin)) == 0) {
            return {begin, end};
        }
    }
    return {};
}

}  // namespace

ConfigFile read_config_file(const std::filesystem::path& file) {
    std::ifstream stream = open_config_file(file);
    ConfigFile read;
    std::string prefix;
    std::string line;
    for (int number = 1; std::getline(stream, line); ++number) {
        const std::string where = fmt::format("{}:{}", file.string(), number);
        const std::string_view text = trim(line);
        if (is_empty_or_comment(text)) {
            continue;
        }
        if (text.starts_with('[')) {
            read.sections.push_back({section_of(text, where), number});
            prefix = read.sections.back().name + ".";
            continue;
        }
        const std::size_t equals = text.find('=');
        require(equals != std::string_view::npos && equals > 0, ExitCode::usage,
                "{}: {} is no setting (lines are [section] or key = value); correct it", where, printable(text));
        read.options.push_back(
            {prefix + std::string(trim(text.substr(0, equals))), value_of(text.substr(equals + 1), where), where});
    }
    return read;
}

std::string config_value(const std::string& value) {
    const bool is_plain =
        value == trim(value) && !value.starts_with('"') && value.find_first_of(comment_signs) == std::string::npos;
    if (is_plain) {
        return value;
    }
    std::string quoted = "\"";
    for (const char character : value) {
        quoted.append(character == '"' ? 2 : 1, character);
    }
    return quoted + '"';
}

std::string expand_path(const std::string& path, const std::string& key, const std::string& source) {
    const std::string variable = variable_in(path);
    require(variable.empty(), ExitCode::usage,
            "{} = {} has the variable {} in it ({}; only a shell replaces variables); write its value", key, path,
            variable, source);
    const std::string first = path.substr(0, path.find('/'));
    if (!first.starts_with('~')) {
        return path;
    }
    require(first == "~", ExitCode::usage,
            "{} = {} begins with {} ({}; only a shell knows such folders); write the whole path, or ./{}", key, path,
            first, source, path);
    const char* const home = std::getenv("HOME");
    require(home != nullptr && *home != 0, ExitCode::usage,
            "{} = {} begins with ~ ({}) and the variable HOME is not set; write the whole path", key, path, source);
    return home + path.substr(1);
}

CommandLine read_command_line(std::span<const std::string> arguments, const std::vector<std::string>& keys) {
    namespace po = boost::program_options;
    namespace style = po::command_line_style;
    constexpr const char* needs_value = "option {0} needs a value (on the command line); write --{0} VALUE";
    po::options_description known;
    for (const std::string& key : keys) {
        known.add_options()(key.c_str(), po::value<std::string>());
    }
    CommandLine line;
    try {
        const auto parsed = po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()))
                                .options(known)
                                .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
                                .allow_unregistered()
                                .run();
        for (const po::option& option : parsed.options) {
            if (option.position_key >= 0) {
                line.words.insert(line.words.end(), option.value.begin(), option.value.end());
            } else {
                const std::string value = option.value.empty() ? "" : option.value.front();
                const bool is_next_option = option.original_tokens.size() > 1 && value.starts_with("--");
                require(!is_next_option, ExitCode::usage, needs_value, option.string_key);
                line.options.push_back({option.string_key, value, "on the command line"});
            }
        }
    } catch (const po::invalid_command_line_syntax& error) {
        const std::string key = error.get_option_name();
        fail(ExitCode::usage, needs_value, key.substr(std::min(key.find_first_not_of('-'), key.size())));
    } catch (const po::error& error) {
        fail(ExitCode::usage, "can't parse the command line ({}); options are written --section.key VALUE",
             error.what());
    }
    return line;
}

}  // namespace moesaic::core
