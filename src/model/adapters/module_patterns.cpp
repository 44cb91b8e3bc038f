#include "model/adapters/module_patterns.hpp"

#include "core/error.hpp"
#include "core/text.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace moesaic::model {

using core::ExitCode;

namespace {

/// Steps, and memory in KiB, that matching one name may take. An expression that backtracks without end is found out;
/// others need some hundred steps.
constexpr std::uint32_t most_steps = 100'000;
constexpr std::uint32_t most_kibibytes = 1024;

std::string message_of(int code) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(code, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
}

template <class T, void (*free)(T*)>
struct Free {
    void operator()(T* object) const { free(object); }
};
template <class T, void (*free)(T*)>
using Owned = std::unique_ptr<T, Free<T, free>>;

}  // namespace

/// A compiled expression.
class ModulePatterns::Expression {
public:
    Expression(std::string source, std::string pattern) : source_(std::move(source)), pattern_(std::move(pattern)) {
        const std::string whole = "(.*\\.)?(" + pattern_ + ")";
        int error = 0;
        PCRE2_SIZE position = 0;
        code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.data()), whole.size(),
                                  PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &position, nullptr));
        core::require(code_ != nullptr, ExitCode::usage, "{}: \"{}\" is no regular expression ({}); correct it",
                      source_, core::printable(pattern_), message_of(error));
        context_.reset(pcre2_match_context_create(nullptr));
        data_.reset(pcre2_match_data_create(1, nullptr));
        core::require(context_ != nullptr && data_ != nullptr, ExitCode::out_of_resources, core::out_of_memory_message);
        pcre2_set_match_limit(context_.get(), most_steps);
        pcre2_set_depth_limit(context_.get(), most_steps);
        pcre2_set_heap_limit(context_.get(), most_kibibytes);
    }

    [[nodiscard]] const std::string& pattern() const { return pattern_; }

    [[nodiscard]] bool matches(const std::string& module) const {
        const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(module.data()), module.size(), 0,
                                       PCRE2_ANCHORED | PCRE2_ENDANCHORED, data_.get(), context_.get());
        core::require(result >= 0 || result == PCRE2_ERROR_NOMATCH, ExitCode::usage,
                      "{}: the pattern \"{}\" can't be matched with {} ({}); write a simpler one", source_,
                      core::printable(pattern_), core::printable(module), message_of(result));
        return result >= 0;
    }

private:
    std::string source_;
    std::string pattern_;
    Owned<pcre2_code, pcre2_code_free> code_;
    Owned<pcre2_match_context, pcre2_match_context_free> context_;
    Owned<pcre2_match_data, pcre2_match_data_free> data_;  ///< one thread matches at a time
};

void ModulePatterns::add(const std::string& source, const std::string& pattern, double value) {
    constexpr std::size_t longest = 1024;
    constexpr double largest = 1e9;
    core::require(pattern.size() <= longest, ExitCode::usage,
                  "{}: a pattern has {} bytes (at most {} are taken); shorten it", source, pattern.size(), longest);
    core::require(value > 0 && value <= largest, ExitCode::usage,
                  "{}: \"{}\" has the value {} (a positive number up to {} makes sense); correct it", source,
                  core::printable(pattern), value, largest);
    entries_.push_back({std::make_shared<const Expression>(source, pattern), value});
}

ModulePatterns ModulePatterns::parse(const std::string& source, const std::string& text) {
    ModulePatterns patterns;
    if (text.empty()) {
        return patterns;
    }
    for (const std::string& item : core::split(text)) {
        const auto equals = item.rfind('=');
        double value = 0;
        const char* end = item.data() + item.size();
        const bool good = equals != std::string::npos && equals > 0 &&
                          std::from_chars(item.data() + equals + 1, end, value).ptr == end && value > 0;
        core::require(good, ExitCode::usage,
                      "{}: \"{}\" is not PATTERN=VALUE with a positive number; write for example q_proj=16,down_proj=4",
                      source, core::printable(item));
        patterns.add(source, item.substr(0, equals), value);
    }
    return patterns;
}

std::string ModulePatterns::text() const {
    std::string text;
    for (const Entry& entry : entries_) {
        text += fmt::format("{}{}={}", text.empty() ? "" : ",", entry.expression->pattern(), entry.value);
    }
    return text;
}

double ModulePatterns::value_of(const std::string& module, double otherwise) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.expression->matches(module); });
    return found == entries_.end() ? otherwise : found->value;
}

std::vector<std::string> ModulePatterns::unmatched(std::span<const std::string> modules) const {
    std::vector<std::string> patterns;
    for (const Entry& entry : entries_) {
        if (std::none_of(modules.begin(), modules.end(),
                         [&](const std::string& module) { return entry.expression->matches(module); })) {
            patterns.push_back(entry.expression->pattern());
        }
    }
    return patterns;
}

}  // namespace moesaic::model
