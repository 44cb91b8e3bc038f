// moesaic report: pages about runs and benchmarks, their comparison, and the check of results.
#include "app/command.hpp"
#include "app/report_page.hpp"
#include "core/error.hpp"
#include "core/options.hpp"
#include "io/files.hpp"
#include "measure/compare.hpp"
#include "measure/rules.hpp"
#include "report/comparison_page.hpp"
#include "report/results_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using core::ExitCode;

/// The results of a file, or of all files of a folder that hold some, in the order of their names.
std::vector<measure::Results> read_side(const fs::path& path) {
    std::vector<measure::Results> side;
    for (const fs::path& input : inputs_of(path)) {
        if (!is_run(input)) {
            side.push_back(measure::read_results(input));
        }
    }
    return side;
}

ExitCode compare_benchmarks(const mpi::Communicator& world, const std::vector<std::string>& sides, double threshold,
                            bool strict) {
    bool fails = false;
    std::string text;
    world.agree([&] {
        core::require(
            sides.size() == 2, ExitCode::usage,
            "report --compare needs two sides ({} given); write moesaic report --compare A B, files or folders "
            "of results, or folders of training runs",
            sides.size());
        const measure::Comparison comparison = measure::compare(read_side(sides[0]), read_side(sides[1]), threshold);
        text = to_text(comparison, threshold);
        fails = comparison.fails(strict);
    });
    print(world, text);
    return fails ? ExitCode::verification_failed : ExitCode::success;
}

/// Where the report of `input` goes, without ending: into a folder, beside a file, or into `folder` if given.
fs::path report_name(const fs::path& input, const std::string& folder, const std::string& name) {
    const fs::path beside = fs::is_directory(input) ? input : input.parent_path();
    return (folder.empty() ? beside : fs::path(folder)) / name;
}

/// Writes the page, and says what of the input is damaged and left out.
ExitCode write_page(const mpi::Communicator& world, const report::Document& document, const std::string& folder,
                    const fs::path& name) {
    if (!folder.empty()) {
        io::create_folder(folder);
    }
    write_report(document, name);
    print(world, fmt::format("{0}.html, {0}.md, {0}.csv\n", name.string()));
    for (const std::string& problem : document.damage) {
        print(world, fmt::format("left out: {}\n", problem));
    }
    return document.damage.empty() ? ExitCode::success : ExitCode::corrupt_input;
}

/// Subjects of several documents: with the names of their files, and with the whole path where that is not enough.
void tell_apart(std::vector<report::Document>& documents, const std::vector<fs::path>& inputs) {
    std::map<std::string, int> count;
    for (std::size_t i = 0; i < documents.size(); ++i) {
        std::string& subject = documents[i].subject;
        subject += is_run(inputs[i]) ? "" : ", " + inputs[i].filename().string();
        ++count[subject];
    }
    for (std::size_t i = 0; i < documents.size(); ++i) {
        std::string& subject = documents[i].subject;
        subject += count.at(subject) > 1 ? " (" + inputs[i].string() + ")" : "";
    }
}

/// Runs are compared first.
report::Document describe_all(const std::vector<fs::path>& inputs) {
    std::vector<report::Document> documents;
    std::vector<report::RunRecord> runs;
    for (const fs::path& input : inputs) {
        if (is_run(input)) {
            runs.push_back(report::read_run(input));
            documents.push_back(report::describe_run(runs.back()));
        } else {
            documents.push_back(report::describe_results(measure::read_results(input)));
        }
    }
    if (documents.size() > 1) {
        tell_apart(documents, inputs);
    }
    report::Document all = report::join(documents);
    if (runs.size() > 1) {
        const report::Document comparison = report::compare_runs(runs);
        all.sections.insert(all.sections.begin(), comparison.sections.begin(), comparison.sections.end());
    }
    return all;
}

ExitCode report_on(const mpi::Communicator& world, const std::vector<std::string>& words, const std::string& folder) {
    ExitCode code = ExitCode::success;
    world.agree([&] {
        core::require(
            !words.empty(), ExitCode::usage,
            "no input given (there is nothing to report on); write moesaic report FOLDER, the output folder of "
            "a run, or FILE, the result of a benchmark");
        if (world.is_root()) {
            std::vector<fs::path> inputs;
            for (const std::string& word : words) {
                const std::vector<fs::path> found = inputs_of(word);
                inputs.insert(inputs.end(), found.begin(), found.end());
            }
            const fs::path first = words.front();
            code = write_page(world, describe_all(inputs), folder,
                              report_name(first, folder, fs::is_directory(first) ? "report" : first.stem().string()));
        }
    });
    return code;
}

ExitCode compare_trainings(const mpi::Communicator& world, const std::vector<std::string>& folders,
                           const std::string& output) {
    ExitCode code = ExitCode::success;
    world.agree([&] {
        core::require(
            folders.size() > 1, ExitCode::usage,
            "report --compare needs two runs or more (one given); write moesaic report --compare RUN RUN ...");
        if (world.is_root()) {
            std::vector<report::RunRecord> runs;
            std::transform(folders.begin(), folders.end(), std::back_inserter(runs), report::read_run);
            const report::Document document = report::compare_runs(runs);
            code = write_page(world, document, output, report_name(folders.front(), output, "comparison"));
        }
    });
    return code;
}

ExitCode compare(const mpi::Communicator& world, const std::vector<std::string>& sides, const std::string& output,
                 double threshold, bool strict) {
    const auto runs = std::count_if(sides.begin(), sides.end(), [](const std::string& side) { return is_run(side); });
    if (runs == 0) {
        return compare_benchmarks(world, sides, threshold, strict);
    }
    const auto other =
        std::find_if_not(sides.begin(), sides.end(), [](const std::string& side) { return is_run(side); });
    world.agree([&] {
        core::require(
            other == sides.end(), ExitCode::usage,
            "{} can't be compared with a training run (it is no output folder of one); compare runs with runs "
            "and results of benchmarks with each other",
            other == sides.end() ? "" : *other);
    });
    return compare_trainings(world, sides, output);
}

ExitCode check(const mpi::Communicator& world, const std::vector<std::string>& files) {
    std::string text;
    bool fails = false;
    world.agree([&] {
        core::require(!files.empty(), ExitCode::usage,
                      "report --check needs a file (none given); write moesaic report --check FILE, the result of a "
                      "benchmark");
        for (const std::string& file : files) {
            const std::vector<std::string> broken = measure::broken_rules(file);
            text += fmt::format("{}: {}\n", file, broken.empty() ? "keeps the rules" : "breaks the rules");
            for (const std::string& rule : broken) {
                text += fmt::format("  {}\n", rule);
            }
            fails = fails || !broken.empty();
        }
    });
    print(world, text);
    return fails ? ExitCode::verification_failed : ExitCode::success;
}

}  // namespace

ExitCode run_report(const mpi::Communicator& world, Arguments arguments) {
    std::string folder;
    double threshold = 5;
    bool strict = false;
    core::OptionSet options;
    options.add_path("output", folder, "folder for the pages instead of the input's own; created if it is not there");
    options.add("threshold", threshold, "with --compare of benchmarks: how many percent more time count as slower",
                core::positive());
    options.add("strict", strict, "with --compare of benchmarks: unclear figures give exit code 3, too");
    if (asks_for_help(arguments)) {
        print_help(world, "report", options);
        return ExitCode::success;
    }
    std::vector<std::string> rest(arguments.begin(), arguments.end());
    const bool compares = std::erase(rest, "--compare") > 0;
    const bool checks = std::erase(rest, "--check") > 0;
    const std::vector<std::string> words = parse(world, options, rest, false);
    if (checks) {
        return check(world, words);
    }
    return compares ? compare(world, words, folder, threshold, strict) : report_on(world, words, folder);
}

}  // namespace moesaic::app
