#include "core/option_sources.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#include <fmt/format.h>

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

CommandLine read_command_line(std::span<const std::string> arguments) {
    CommandLine line;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (argument == "--") {
            line.words.insert(line.words.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                              arguments.end());
            break;
        }
        if (!argument.starts_with("--")) {
            line.words.push_back(argument);
            continue;
        }
        GivenOption option = {argument.substr(2), std::nullopt, "on the command line"};
        if (const std::size_t equals = option.key.find('='); equals != std::string::npos) {
            option.value = option.key.substr(equals + 1);
            option.key.resize(equals);
        } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) {
            option.value = arguments[++i];
        }
        line.options.push_back(std::move(option));
    }
    return line;
}

}  // namespace moesaic::core
