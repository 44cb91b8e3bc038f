#include "core/options.hpp"
#include "core/error.hpp"
#include "core/option_sources.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace moesaic::core {
namespace {

enum class Fruit : std::uint8_t { apple, pear, quince };
constexpr auto names_of(Fruit) {
    return std::to_array<std::string_view>({"apple", "pear", "quince"});
}

class OptionsTest : public testing::Test {
protected:
    OptionsTest() : file_(std::filesystem::temp_directory_path() / "moesaic-options-test.cfg") {
        set_.add("train.lr", rate, "learning rate", positive());
        set_.add("train.steps", steps, "steps", at_least(0));
        set_.add("data.train", train, "file");
        set_.add("data.shuffle", shuffle, "shuffle");
        set_.add("compute.isa", isa, "level", one_of({"auto", "amx"}));
        set_.add_auto("parallel.tensor", tensor, 64, "ranks");
        set_.add_enum("bench.fruit", fruit, "apple or pear");
        set_.add_enum("bench.basket", basket, "fruit");
        set_.add("output.walltime", limit, "time limit");
    }
    ~OptionsTest() override { std::filesystem::remove(file_); }

    void write(const std::string& text) { std::ofstream(file_) << text; }
    std::vector<std::string> parse(const std::vector<std::string>& arguments, bool config = false) {
        return set_.parse(arguments, config);
    }
    std::string error_of(const std::vector<std::string>& arguments, bool config = false) {
        try {
            parse(arguments, config);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::usage);
            return error.what();
        }
        return "no error";
    }

    double rate = 0.5;
    std::int64_t steps = 3;
    std::string train;
    bool shuffle = true;
    std::string isa = "auto";
    std::int64_t tensor = 0;
    Fruit fruit = Fruit::pear;
    std::set<Fruit> basket = {Fruit::apple, Fruit::pear};
    Duration limit;
    OptionSet set_;
    std::filesystem::path file_;
};

TEST_F(OptionsTest, DefaultsStayWithoutArguments) {
    EXPECT_TRUE(parse({}).empty());
    EXPECT_EQ(rate, 0.5);
    std::map<std::string, std::string> values;
    for (const auto& [key, value] : set_.settings()) {
        values[key] = value;
    }
    EXPECT_EQ(values, (std::map<std::string, std::string>{{"train.lr", "0.5"},
                                                          {"train.steps", "3"},
                                                          {"data.train", ""},
                                                          {"data.shuffle", "true"},
                                                          {"compute.isa", "auto"},
                                                          {"parallel.tensor", "auto"},
                                                          {"bench.fruit", "pear"},
                                                          {"bench.basket", "apple,pear"},
                                                          {"output.walltime", ""}}));
}

TEST_F(OptionsTest, EnumerationsAreReadByName) {
    parse({"--bench.fruit", "quince", "--bench.basket", "quince,apple,quince", "--parallel.tensor", "2"});
    EXPECT_EQ(fruit, Fruit::quince);
    EXPECT_EQ(basket, (std::set<Fruit>{Fruit::apple, Fruit::quince}));
    EXPECT_EQ(tensor, 2);
    parse({"--parallel.tensor", "auto"});
    EXPECT_EQ(tensor, 0);
    EXPECT_EQ(error_of({"--bench.fruit", "quinze"}),
              "bench.fruit = quinze must be one of apple, pear, quince (on the command line); did you mean quince?");
    write("[bench]\nbasket = apple,,pear\n");
    EXPECT_EQ(error_of({file_.string()}, true),
              "bench.basket =  must be one of apple, pear, quince (" + file_.string() + ":2); correct the value");
    EXPECT_EQ(fruit, Fruit::quince);  // unchanged by errors
    EXPECT_EQ(values_of<Fruit>(), (std::array{Fruit::apple, Fruit::pear, Fruit::quince}));
    EXPECT_EQ(parse_name<Fruit>("pear", "fruit", "basket.json"), Fruit::pear);
    EXPECT_THROW(static_cast<void>(parse_name<Fruit>("", "fruit", "basket.json")), Error);
}

TEST_F(OptionsTest, DurationsAreThoseOfSlurm) {
    const auto seconds = [&](const std::string& text) {
        parse({"--output.walltime", text});
        EXPECT_EQ(limit.text, text);
        return limit.seconds;
    };
    EXPECT_EQ(limit.seconds, 0);
    EXPECT_EQ(seconds("90"), 90);
    EXPECT_EQ(seconds("1:30"), 90);
    EXPECT_EQ(seconds("02:00:01"), 7201);
    EXPECT_EQ(seconds("1-00:00:00"), 86400);
    for (const char* text : {"soon", "0", "1:2:3:4", "1-", "-1", "1:-1", "nan"}) {
        EXPECT_NE(error_of({std::string("--output.walltime=") + text}).find("is not a duration"), std::string::npos)
            << text;
    }
}

TEST_F(OptionsTest, CommandLineTakesBothSpellingsAndReturnsWords) {
    EXPECT_EQ(parse({"--data.train=--a=b", "-x", "--", "--train.lr", "-"}),
              (std::vector<std::string>{"-x", "--train.lr", "-"}));
    EXPECT_EQ(train, "--a=b");
    EXPECT_EQ(parse({"case1", "--train.lr", "2e-3", "--data.shuffle=false", "case2"}),
              (std::vector<std::string>{"case1", "case2"}));
    EXPECT_EQ(rate, 2e-3);
    EXPECT_FALSE(shuffle);
}

TEST_F(OptionsTest, CommandLineWinsOverTheFile) {
    write("# comment\n[train]\nlr = 0.25\nsteps = 7\n[data]\ntrain = a b.jsonl\n");
    EXPECT_TRUE(parse({file_.string(), "--train.steps", "9"}, true).empty());
    EXPECT_EQ(rate, 0.25);
    EXPECT_EQ(steps, 9);
    EXPECT_EQ(train, "a b.jsonl");
    EXPECT_EQ(set_.config_file(), file_);
}

TEST_F(OptionsTest, CommandLineWinsAlsoBeforeTheFileIsNamed) {
    write("[train]\nsteps = 7\n");
    parse({"--train.steps", "9", "--config", file_.string()});
    EXPECT_EQ(steps, 9);
}

TEST_F(OptionsTest, UnknownKeysNameTheNearest) {
    EXPECT_NE(error_of({"--train.lrr", "1"}).find("did you mean train.lr?"), std::string::npos);
    write("[train]\nlr = 1\n\n[dta]\nshuffle = true\n");
    const std::string message = error_of({file_.string()}, true);
    EXPECT_NE(message.find("dta.shuffle"), std::string::npos) << message;
    EXPECT_NE(message.find("did you mean data.shuffle?"), std::string::npos) << message;
    EXPECT_NE(message.find(file_.string() + ":5"), std::string::npos) << message;
}

TEST_F(OptionsTest, KnowWhatWasSetEvenToItsDefault) {
    write("[train]\nsteps = 3\n");
    parse({"--config", file_.string(), "--train.lr", "0.5"});
    EXPECT_TRUE(set_.was_set("train.lr"));
    EXPECT_TRUE(set_.was_set("train.steps"));
    EXPECT_FALSE(set_.was_set("data.train"));
    EXPECT_FALSE(set_.was_set("no.such"));
}

TEST_F(OptionsTest, ValuesMustBeUtf8) {
    EXPECT_NE(error_of({"--data.train", "caf\xe9"}).find("data.train has a value that is no UTF-8"), std::string::npos);
    EXPECT_NE(error_of({"--data.train", "a\nb"}).find("data.train has a value with a line break"), std::string::npos);
    parse({"--data.train", "caf\xc3\xa9"});
    EXPECT_EQ(train, "caf\xc3\xa9");
}

TEST_F(OptionsTest, PrefixesAreNoNames) {
    EXPECT_NE(error_of({"--train.step", "1"}), "no error");
}

TEST_F(OptionsTest, WrongValuesNameKeyValueAndReason) {
    EXPECT_NE(error_of({"--train.lr", "fast"}).find("train.lr = fast is not a number"), std::string::npos);
    EXPECT_NE(error_of({"--train.lr", "nan"}).find("train.lr"), std::string::npos);
    EXPECT_NE(error_of({"--train.lr", "0"}).find("must be positive"), std::string::npos);
    EXPECT_NE(error_of({"--train.steps", "1.5"}).find("not an integer"), std::string::npos);
    EXPECT_NE(error_of({"--train.steps", "-1"}).find("at least 0"), std::string::npos);
    EXPECT_NE(error_of({"--data.shuffle", "maybe"}).find("true or false"), std::string::npos);
    EXPECT_NE(error_of({"--compute.isa", "sse"}).find("one of auto, amx"), std::string::npos);
    EXPECT_NE(error_of({"--parallel.tensor", "0"}).find("auto"), std::string::npos);
    EXPECT_NE(error_of({"--parallel.tensor", "65"}).find("between 1 and 64"), std::string::npos);
    EXPECT_EQ(error_of({"--parallel.tensor", "64"}), "no error");
    EXPECT_EQ(error_of({"--train.steps"}),
              "option train.steps needs a value (on the command line); write --train.steps VALUE");
    EXPECT_NE(error_of({"--train.steps", "--train.lr", "1"}).find("train.steps needs a value"), std::string::npos);
    EXPECT_NE(error_of({"--config"}).find("option config needs a value"), std::string::npos);
    EXPECT_EQ(steps, 3);  // unchanged by errors
}

TEST_F(OptionsTest, FileErrorsNameTheFile) {
    EXPECT_NE(error_of({"/nonexistent/a.cfg"}, true).find("/nonexistent/a.cfg"), std::string::npos);
    const auto error_in = [&](const std::string& text) {
        write(text);
        return error_of({file_.string()}, true);
    };
    const std::string file = file_.string();
    EXPECT_EQ(error_in("[train]\nthis is no setting\n"),
              file + ":2: this is no setting is no setting (lines are [section] or key = value); correct it");
    EXPECT_EQ(error_in("\n= 3\n"), file + ":2: = 3 is no setting (lines are [section] or key = value); correct it");
    EXPECT_EQ(error_in("[train\nlr = 1\n"), file + ":1: [train is no section (the bracket ] is missing); add it");
    EXPECT_EQ(error_in("[train] lr = 1\n"), file +
                                                ":1: [train] lr = 1 has more than a section (settings have lines of "
                                                "their own); break the line after ]");
    EXPECT_EQ(error_in("[train]\nlr = 1\n\n[data]\n[train]\nlr = 1\n"),
              "option train.lr is set twice (" + file + ":2 and " + file + ":6); remove one");
    EXPECT_EQ(error_in("train.lr = 1\n[train]\nlr = 1\n"),
              "option train.lr is set twice (" + file + ":1 and " + file + ":3); remove one");
    EXPECT_NE(error_of({file, "--config", file}, true).find("2 configuration files given"), std::string::npos);
}

TEST_F(OptionsTest, CommentsNeedABlankBeforeThem) {
    write("; one\n\t# two\n[train] # three\nlr = 0.25 ; four\nsteps=7 # five ; six\r\n[data]\ntrain = a.jsonl ; x\n");
    EXPECT_EQ(error_of({file_.string()}, true), "no error");
    EXPECT_EQ(rate, 0.25);
    EXPECT_EQ(steps, 7);
    EXPECT_EQ(train, "a.jsonl");
    for (const std::string value : {"a.jsonl; x", "run#3", "a;"}) {
        write("[data]\ntrain = " + value + "\n");
        EXPECT_EQ(error_of({file_.string()}, true),
                  file_.string() + ":2: the value " + value + " has " + (value[0] == 'r' ? "#" : ";") +
                      " in it (a comment needs a blank before it); put one there, or the value in double quotes");
    }
    EXPECT_EQ(train, "a.jsonl");  // unchanged by errors
}

TEST_F(OptionsTest, QuotedValuesAreTakenAsTheyAre) {
    for (const std::string value : {"run #3; b", " blanks ", "\"a\" \"b\"", "\"", "#", "a \"b\"", "plain"}) {
        write(OptionSet::to_config({{"data.train", value}}) + "[train]\nsteps = 7 # x\n");
        EXPECT_EQ(error_of({file_.string()}, true), "no error") << value;
        EXPECT_EQ(train, value);
    }
    write("[data]\ntrain = \"a # b\"  ; comment\n");
    EXPECT_EQ(error_of({file_.string()}, true), "no error");
    EXPECT_EQ(train, "a # b");
    for (const char* broken : {"\"a", "\"", "\"a\" b", "\"a\"\""}) {
        write(std::string("[data]\ntrain = ") + broken + "\n");
        EXPECT_NE(
            error_of({file_.string()}, true).find(":2: the value " + std::string(broken) + " begins with a quote"),
            std::string::npos)
            << broken;
    }
}

/// A script can append to the options of another one.
TEST_F(OptionsTest, LastOfSeveralValuesOnTheCommandLineWins) {
    EXPECT_EQ(error_of({"--train.steps", "1", "--train.lr", "0.1", "--train.steps=7"}), "no error");
    EXPECT_EQ(steps, 7);
}

TEST_F(OptionsTest, FilesMayBeginWithAByteOrderMark) {
    write("\xef\xbb\xbf[train]\nsteps = 9\n");
    EXPECT_EQ(error_of({file_.string()}, true), "no error");
    EXPECT_EQ(steps, 9);
    ASSERT_EQ(read_config_file(file_).sections.size(), 1U);
    EXPECT_EQ(read_config_file(file_).sections[0].name, "train");
    write("");
    EXPECT_EQ(error_of({file_.string()}, true), "no error");
}

TEST_F(OptionsTest, HelpShowsEveryOptionWithItsDefault) {
    const std::string help = set_.help(80);
    for (const auto& setting : set_.settings()) {
        EXPECT_NE(help.find("--" + setting.key), std::string::npos);
    }
    EXPECT_NE(help.find("(default 0.5)"), std::string::npos);
}

/// What is needed first, then what has no section, then sections as they come, in lines of the width that is asked for.
TEST(OptionSet, HelpIsInOrderAndFitsTheTerminal) {
    OptionSet set;
    std::string text;
    std::int64_t number = 3;
    set.add("b.late", number, "a number of which there is more to say than fits into one line");
    set.add("a.first", text, "a text");
    set.add("b.needed", text, "one of these");
    set.add("b.instead", text, "or the other");
    set.add("plain", text, "no section");
    set.need({"b.needed", "b.instead"});
    EXPECT_EQ(set.help(50),
              "\nneeded:\n"
              "  --b.needed   one of these\n"
              "\n"
              "  --plain      no section\n"
              "\n[b]\n"
              "  --b.late     a number of which there is more to\n"
              "               say than fits into one line\n"
              "               (default 3)\n"
              "  --b.instead  or the other\n"
              "\n[a]\n"
              "  --a.first    a text\n");
    EXPECT_TRUE(
        set.help(30).starts_with("\nneeded:\n"
                                 "  --b.needed\n"
                                 "      one of these\n"
                                 "\n"
                                 "  --plain\n"
                                 "      no section\n"))
        << set.help(30);
    EXPECT_NE(set.help(1).find("--a.first\n      a\n      text\n"), std::string::npos) << set.help(1);
    EXPECT_NE(set.help(1000).find("one line (default 3)\n"), std::string::npos);
}

TEST(OptionSet, WhatIsNeededIsNamedAtOnce) {
    OptionSet set;
    std::string path;
    std::string synthetic;
    std::string data;
    set.need({"data"});
    set.set_prefix("case.");
    set.need({"path", "synthetic"});
    set.add("path", path, "");
    set.add("synthetic", synthetic, "");
    set.set_prefix("");
    set.add("data", data, "");
    const auto error_of = [&](const std::vector<std::string>& arguments) -> std::string {
        try {
            set.parse(arguments, false);
        } catch (const Error& error) {
            return error.what();
        }
        return "";
    };
    EXPECT_EQ(
        error_of({}),
        "data, case.path are not set (they have no default); write --data VALUE --case.path VALUE, or set them in "
        "the configuration file");
    EXPECT_EQ(error_of({"--case.synthetic", "x"}),
              "data is not set (it has no default); write --data VALUE, or set it in the configuration file");
    EXPECT_EQ(error_of({"--data", "x"}), "");
}

TEST_F(OptionsTest, PathsMayBeginWithTheHomeFolder) {
    std::string folder;
    set_.add_path("output.dir", folder, "folder");
    set_.add_paths("data.eval", train, "files");
    const char* const before = std::getenv("HOME");
    const std::string home = before == nullptr ? "" : before;
    setenv("HOME", "/home/me", 1);
    for (const auto& [text, path] : std::map<std::string, std::string>{{"~/a", "/home/me/a"},
                                                                       {"~", "/home/me"},
                                                                       {"~/a,~/b", "/home/me/a,~/b"},
                                                                       {"./~a", "./~a"},
                                                                       {"a~/b", "a~/b"},
                                                                       {"a$/$1$", "a$/$1$"}}) {
        EXPECT_EQ(error_of({"--output.dir=" + text}), "no error");
        EXPECT_EQ(folder, path);
    }
    write("[data]\neval = ~/a.jsonl*2,b.jsonl,~/c.jsonl\n[compute]\nisa = auto\n");
    EXPECT_EQ(error_of({file_.string()}, true), "no error");
    EXPECT_EQ(train, "/home/me/a.jsonl*2,b.jsonl,/home/me/c.jsonl");
    EXPECT_EQ(error_of({"--config=~/none.cfg"}).find("can't read the configuration file /home/me/none.cfg"), 0U);
    EXPECT_EQ(error_of({"--output.dir=~you/a"}),
              "output.dir = ~you/a begins with ~you (on the command line; only a shell knows such folders); write the "
              "whole path, or ./~you/a");
    unsetenv("HOME");
    EXPECT_EQ(error_of({"--output.dir=~/a"}),
              "output.dir = ~/a begins with ~ (on the command line) and the variable HOME is not set; write the whole "
              "path");
    if (before != nullptr) {
        setenv("HOME", home.c_str(), 1);
    }
}

/// A folder of that name would be made otherwise.
TEST_F(OptionsTest, VariablesInPathsAreRefused) {
    set_.add_path("output.dir", train, "folder");
    for (const char* path : {"$SCRATCH/run", "${SCRATCH}/run", "/a/$1$SCRATCH"}) {
        write(std::string("[output]\n\ndir = ") + path + "\n");
        EXPECT_EQ(error_of({file_.string()}, true), std::string("output.dir = ") + path +
                                                        " has the variable SCRATCH in it (" + file_.string() +
                                                        ":3; only a shell replaces variables); write its value");
    }
    EXPECT_EQ(train, "");
}

}  // namespace
}  // namespace moesaic::core
