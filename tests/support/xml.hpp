// A strict check of XML syntax, as far as reports use it: elements, quoted attributes and five entities.
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moesaic::test {

class XmlReader {
public:
    explicit XmlReader(std::string text) : owned_(std::move(text)) {}

    /// The first error, or an empty string. Collects the `value` attributes of <data> elements.
    std::string check() {
        constexpr std::string_view doctype = "<!DOCTYPE html>";
        if (text().starts_with(doctype)) {
            at_ = doctype.size();
        }
        while (at_ < text().size() && error_.empty()) {
            if (text()[at_] == '<') {
                tag();
            } else if (open_.empty() && std::isspace(static_cast<unsigned char>(text()[at_])) == 0) {
                fail("text outside of the document");
            } else {
                character();
            }
        }
        if (error_.empty() && !open_.empty()) {
            fail("<" + open_.back() + "> is not closed");
        }
        return error_;
    }
    [[nodiscard]] const std::vector<std::string>& data() const { return data_; }
    [[nodiscard]] const std::vector<std::string>& elements() const { return elements_; }

private:
    [[nodiscard]] std::string_view text() const { return owned_; }
    void fail(const std::string& what) {
        if (error_.empty()) {
            error_ = what + " before '" + std::string(text().substr(at_, 40)) + "'";
        }
        at_ = text().size();
    }

    void character() {
        const auto c = static_cast<unsigned char>(text()[at_]);
        if (c < 0x20 && c != '\n' && c != '\t' && c != '\r') {
            return fail("control character");
        }
        if (c == '&') {
            bool known = false;
            for (const std::string_view entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"}) {
                known = known || text().substr(at_).starts_with(entity);
            }
            if (!known) {
                return fail("unknown entity");
            }
        }
        ++at_;
    }

    std::string name() {
        const std::size_t begin = at_;
        while (at_ < text().size() &&
               (std::isalnum(static_cast<unsigned char>(text()[at_])) != 0 || text()[at_] == '-')) {
            ++at_;
        }
        return std::string(text().substr(begin, at_ - begin));
    }

    bool take(char c) {
        const bool found = at_ < text().size() && text()[at_] == c;
        at_ += found ? 1 : 0;
        return found;
    }

    void tag() {
        ++at_;
        if (take('/')) {
            const std::string element = name();
            if (open_.empty() || element != open_.back() || !take('>')) {
                return fail("</" + element + "> closes nothing");
            }
            return open_.pop_back();
        }
        const std::string element = name();
        if (element.empty()) {
            return fail("a bare <");
        }
        elements_.push_back(element);
        while (error_.empty() && take(' ')) {
            attribute(element);
        }
        const bool closed = take('/');
        if (!take('>')) {
            return fail("<" + element + "> does not end");
        }
        if (!closed) {
            open_.push_back(element);
        }
    }

    void attribute(const std::string& element) {
        const std::string key = name();
        if (key.empty()) {
            return;  // a space before the end
        }
        if (!take('=') || !take('"')) {
            return fail("attribute " + key + " without quoted value");
        }
        const std::size_t begin = at_;
        while (at_ < text().size() && text()[at_] != '"') {
            if (text()[at_] == '<') {
                return fail("< in an attribute");
            }
            character();
        }
        if (element == "data") {
            data_.emplace_back(text().substr(begin, at_ - begin));
        }
        if (!take('"')) {
            fail("attribute " + key + " does not end");
        }
    }

    std::string owned_;
    std::size_t at_ = 0;
    std::string error_;
    std::vector<std::string> open_;
    std::vector<std::string> data_;
    std::vector<std::string> elements_;
};

}  // namespace moesaic::test
