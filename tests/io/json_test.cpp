#include "io/json.hpp"
#include "io/known_keys.hpp"

#include <array>
#include <cmath>

#include "support.hpp"

namespace moesaic::io {
namespace {

using core::ExitCode;
using nlohmann::json;
using test::expect_error;
using test::TemporaryFolder;

TEST(Json, BuildsTheSameValueAsThePlainParser) {
    for (const std::string text :
         {R"({"a": [1, -2, 3.5, true, false, null, "x\u00e9\n"], "b": {"c": {}, "d": []}, "e": 18446744073709551615})",
          "[]", "{}", "3", "\"text\"", "null", "[[[]],[[],{}]]", " \n [ 1 ] \n"}) {
        EXPECT_EQ(parse_json(text, "test"), json::parse(text)) << text;
    }
}

struct BadText {
    std::string text;
    std::string message;
};

TEST(Json, ErrorsNameLineAndColumn) {
    const BadText cases[] = {
        {"", "f:1:1: can't parse JSON (syntax error"},
        {"{\"a\": 1,\n \"b\": }", "f:2:7: can't parse JSON (syntax error"},
        {"{\"a\": 1,\n \"b\": 2,\n", "f:2:9: can't parse JSON (syntax error"},
        {"[1, 2", "f:1:5: can't parse JSON (syntax error"},
        {"[1] x", "f:1:5: can't parse JSON (syntax error"},
        {"[1]\n[2]", "f:2:1: can't parse JSON (syntax error"},
        {"[NaN]", "f:1:2: can't parse JSON (syntax error"},
        {"[1e999]", "f:1:7: can't parse JSON (number overflow"},
        {"[\"\xff\"]", "f:1:3: can't parse JSON (syntax error"},
        {"[\"a\nb\"]", "f:1:4: can't parse JSON (syntax error"},
        {std::string("[1]\n\0[2]", 8), "f:2:1: can't parse JSON (there is a NUL byte"},
        {"{\"a\": 1,\n \"a\": 2}", "f:2:4: can't parse JSON (the key 'a' appears twice"},
        {"{\"x\": {\"b\": 1, \"c\": 3, \"b\": [2]}}", "the key 'b' appears twice"},
    };
    for (const BadText& bad : cases) {
        expect_error(ExitCode::corrupt_input, bad.message, [&] { (void)parse_json(bad.text, "f"); });
    }
    expect_error(ExitCode::corrupt_input, "f:8:1: ", [] { (void)parse_json("\n]x", "f", {}, 7); });
}

TEST(Json, EqualKeysOfDifferentObjectsAreFine) {
    EXPECT_EQ(parse_json(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})", "f")["b"][1]["a"], 2);
}

TEST(Json, LimitsHold) {
    const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
    EXPECT_NO_THROW((void)parse_json(nested(64), "f"));
    expect_error(ExitCode::corrupt_input, "f:1:65: can't parse JSON (arrays and objects are nested more than 64 deep)",
                 [&] { (void)parse_json(nested(65), "f"); });
    expect_error(ExitCode::corrupt_input, "nested", [] { (void)parse_json(std::string(1'000'000, '['), "f"); });
    expect_error(ExitCode::corrupt_input, "more than 3 values",
                 [] { (void)parse_json("[1, 2, 3]", "f", {.values = 3}); });
    EXPECT_NO_THROW((void)parse_json("[1, 2, 3]", "f", {.values = 4}));
    expect_error(ExitCode::corrupt_input, "it has 9 bytes and the limit is 8",
                 [] { (void)parse_json("[1, 2, 3]", "f", {.bytes = 8}); });
}

TEST(Json, ReadsFiles) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "a.json", "{\"k\": [1,\n2}");
    expect_error(ExitCode::corrupt_input, "a.json:2:2: ", [&] { (void)read_json(folder / "a.json"); });
    expect_error(ExitCode::corrupt_input, "a.json", [&] { (void)read_json(folder / "a.json", {.bytes = 3}); });
    expect_error(ExitCode::usage, "No such file", [&] { (void)read_json(folder / "b.json"); });
    expect_error(ExitCode::usage, "Is a directory", [&] { (void)read_json(folder.path()); });
}

TEST(Json, TypedAccess) {
    const json object = parse_json(
        R"({"int": 7, "minus": -1, "float": 2.5, "bool": true, "text": "abc", "null": null, "list": [1, 2, 3],
            "mixed": [1, "x"], "big": 18446744073709551615, "byte": 300, "huge": 1e300, "texts": ["a", "b"]})",
        "f");
    EXPECT_EQ(get<int>(object, "int", "f"), 7);
    EXPECT_EQ(get<std::int16_t>(object, "minus", "f"), -1);
    EXPECT_EQ(get<double>(object, "float", "f"), 2.5);
    EXPECT_EQ(get<float>(object, "int", "f"), 7.0F);
    EXPECT_EQ(get<bool>(object, "bool", "f"), true);
    EXPECT_EQ(get<std::string>(object, "text", "f"), "abc");
    EXPECT_EQ(get<std::vector<core::index_t>>(object, "list", "f"), (std::vector<core::index_t>{1, 2, 3}));
    EXPECT_EQ(get<std::vector<std::string>>(object, "texts", "f"), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(get<json>(object, "list", "f").size(), 3U);
    EXPECT_EQ(get_or<int>(object, "missing", 5, "f"), 5);
    EXPECT_EQ(get_or<std::string>(object, "null", "default", "f"), "default");
    EXPECT_EQ(get_or<int>(object, "int", 5, "f"), 7);
    EXPECT_EQ(get_size(object, "int", "f"), 7);
    EXPECT_EQ(get_size_or(object, "null", 4, "f"), 4);

    const auto refused = [&](std::string_view message, auto action) {
        expect_error(ExitCode::corrupt_input, message, action);
    };
    refused("f has no key 'missing'", [&] { (void)get<int>(object, "missing", "f"); });
    refused("f has no key 'null'", [&] { (void)get<int>(object, "null", "f"); });
    refused("f has no key 'x'", [&] { (void)get_or<int>(json::array(), "x", 1, "f"); });
    refused("f: can't use key 'float' (expected an integer from", [&] { (void)get<int>(object, "float", "f"); });
    refused("from 0 to 255, found 300)", [&] { (void)get<std::uint8_t>(object, "byte", "f"); });
    refused("from 0 to 4294967295, found -1)", [&] { (void)get<std::uint32_t>(object, "minus", "f"); });
    refused("found 18446744073709551615", [&] { (void)get<std::int64_t>(object, "big", "f"); });
    refused("found \"abc\"", [&] { (void)get<double>(object, "text", "f"); });
    refused("can't use key 'huge'", [&] { (void)get<float>(object, "huge", "f"); });
    refused("expected true or false", [&] { (void)get_or<bool>(object, "int", false, "f"); });
    refused("expected a string, found array", [&] { (void)get<std::string>(object, "list", "f"); });
    refused("can't use key 'mixed[1]'", [&] { (void)get<std::vector<int>>(object, "mixed", "f"); });
    refused("expected an array", [&] { (void)get<std::vector<int>>(object, "int", "f"); });
    refused("from 1 to 2147483647, found -1", [&] { (void)get_size(object, "minus", "f"); });
    refused("from 1 to 6, found 7", [&] { (void)get_size_or(object, "int", 2, "f", 1, 6); });
}

TEST(JsonLines, CountsEveryLineAndSkipsBlankOnes) {
    const TemporaryFolder folder;
    test::write_bytes(folder / "a.jsonl", "{\"a\": 1}\n\n  \t\r\n{\"a\": 2}\r\n{\"a\": 3}");
    std::vector<std::pair<std::size_t, int>> seen;
    for_each_json_line(folder / "a.jsonl", [&](const json& value, std::size_t line) {
        seen.emplace_back(line, get<int>(value, "a", "f"));
    });
    EXPECT_EQ(seen, (std::vector<std::pair<std::size_t, int>>{{1, 1}, {4, 2}, {5, 3}}));
}

TEST(JsonLines, LinesLongerThanTheReadBlock) {
    const TemporaryFolder folder;
    const std::string text(600'000, 'x');
    test::write_bytes(folder / "a.jsonl", "[\"" + text + "\"]\n[\"" + text + "\"]\n");
    std::size_t lines = 0;
    for_each_json_line(folder / "a.jsonl", [&](const json& value, std::size_t line) {
        EXPECT_EQ(line, ++lines);
        EXPECT_EQ(value[0].get_ref<const std::string&>().size(), text.size());
    });
    EXPECT_EQ(lines, 2U);
}

TEST(JsonLines, ErrorsNameTheLine) {
    const TemporaryFolder folder;
    const auto read = [&](const std::string& text) {
        test::write_bytes(folder / "a.jsonl", text);
        for_each_json_line(folder / "a.jsonl", [](const json& /*value*/, std::size_t /*line*/) {});
    };
    EXPECT_NO_THROW(read(""));
    expect_error(ExitCode::corrupt_input, "a.jsonl:3:", [&] { read("{}\n\n{\"a\" 1}\n"); });
    expect_error(ExitCode::corrupt_input, "a.jsonl:2:", [&] { read("{}\n{\"a\": 1, \"a\": 2}\n"); });
    expect_error(ExitCode::corrupt_input, "a.jsonl:2:", [&] { read("{}\n{\"a\": [1, 2"); });
    expect_error(ExitCode::corrupt_input, "a.jsonl:2: the line is too long",
                 [&] { read("{}\n" + std::string(max_json_line_bytes + 1, ' ') + "\n"); });
    expect_error(ExitCode::usage, "No such file",
                 [&] { for_each_json_line(folder / "b.jsonl", [](const json& /*value*/, std::size_t /*line*/) {}); });
    expect_error(ExitCode::usage, "Is a directory",
                 [&] { for_each_json_line(folder.path(), [](const json& /*value*/, std::size_t /*line*/) {}); });
}

TEST(Json, KeysOfAMemberKeepTheirOrder) {
    const std::string text = R"({"b": {"z": 1, "a": {"q": 0}, "m": [{"x": 1}]}, "a": {"k": 2}, "c": [{"d": 3}]})";
    EXPECT_EQ(keys_in_order(text, "b"), (std::vector<std::string>{"z", "a", "m"}));
    EXPECT_EQ(keys_in_order(text, "a"), std::vector<std::string>{"k"});
    EXPECT_EQ(keys_in_order(text, "c"), std::vector<std::string>{});
    EXPECT_EQ(keys_in_order("[1]", "b"), std::vector<std::string>{});
}

TEST(KnownKeys, TheFirstTableThatHasAKeyJudgesIt) {
    const KnownKeys own = {
        .required = {"size"}, .defaults = {{"bias", false}}, .only = {{"kind", "a"}}, .ignored = {"note"}};
    KnownKeys others;
    others.only = {{"bias", nullptr}, {"window", nullptr}, {"groups", 1}};
    const std::array<const KnownKeys*, 2> tables = {&own, &others};
    const auto judge = [&](const nlohmann::json& object) { return judge_keys(object, tables, "file"); };
    EXPECT_EQ(judge({{"size", 3}, {"bias", true}, {"kind", "a"}, {"note", 7}, {"window", 0}, {"groups", 1.0}}),
              std::vector<std::string>{});
    EXPECT_EQ(judge({{"window", false}, {"kind", nullptr}, {"_note", 1}, {"new", 1}, {"old", 2}, {"gone", nullptr}}),
              (std::vector<std::string>{"new", "old"}));
    expect_error(ExitCode::usage, "kind = \"b\" (only \"a\" is), window = 8", [&] {
        static_cast<void>(judge({{"window", 8}, {"kind", "b"}}));
    });
    EXPECT_EQ(describe_unknown_keys({}, "file"), "");
    EXPECT_NE(describe_unknown_keys({"a", "b"}, "file").find("file: "), std::string::npos);
}

}  // namespace
}  // namespace moesaic::io
