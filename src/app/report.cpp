// moesaic report: pages about runs and benchmarks, and the comparison of two benchmarks.
#include "app/command.hpp"
#include "app/report_page.hpp"
#include "core/error.hpp"
#include "core/options.hpp"
#include "io/files.hpp"
#include "measure/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;
using core::ExitCode;

/// The results of a file, or of all files *.json of a folder, in the order of their names.
std::vector<measure::Results> read_side(const fs::path& path) {
    std::vector<fs::path> files = {path};
    if (fs::is_directory(path)) {
        files.clear();
        for (const auto& entry : fs::directory_iterator(path)) {
            if (entry.path().extension() == ".json") {
                files.push_back(entry.path());
            }
        }
        core::require(!files.empty(), ExitCode::usage,
                      "{} has no results (no files *.json); write some with moesaic bench ... --output", path.string());
        std::sort(files.begin(), files.end());
    }
    std::vector<measure::Results> side;
    std::transform(files.begin(), files.end(), std::back_inserter(side), measure::read_results);
    return side;
}

ExitCode compare(const mpi::Communicator& world, const std::vector<std::string>& sides, double threshold, bool strict) {
    bool fails = false;
    std::string text;
    world.agree([&] {
        core::require(
            sides.size() == 2, ExitCode::usage,
            "report --compare needs two sides ({} given); write moesaic report --compare A B, files or folders "
            "of results",
            sides.size());
        const measure::Comparison comparison = measure::compare(read_side(sides[0]), read_side(sides[1]), threshold);
        text = to_text(comparison, threshold);
        fails = comparison.fails(strict);
    });
    print(world, text);
    return fails ? ExitCode::verification_failed : ExitCode::success;
}

/// Where the report of `input` goes, without ending: into a run's folder, beside a file, or into `folder` if given.
fs::path report_name(const fs::path& input, const std::string& folder) {
    const bool is_folder = fs::is_directory(input);
    const fs::path beside = is_folder ? input : input.parent_path();
    return (folder.empty() ? beside : fs::path(folder)) / (is_folder ? fs::path("report") : input.stem());
}

void write_page(const mpi::Communicator& world, const std::vector<std::string>& inputs, const std::string& folder) {
    world.agree([&] {
        core::require(
            !inputs.empty(), ExitCode::usage,
            "no input given (there is nothing to report on); write moesaic report FOLDER, the output folder of "
            "a run, or FILE, the result of a benchmark");
        if (world.is_root()) {
            std::vector<report::Document> documents;
            std::transform(inputs.begin(), inputs.end(), std::back_inserter(documents),
                           [](const std::string& input) { return describe(input); });
            if (!folder.empty()) {
                io::create_folder(folder);
            }
            const fs::path name = report_name(inputs.front(), folder);
            write_report(report::join(documents), name);
            print(world, fmt::format("{0}.html, {0}.md, {0}.csv\n", name.string()));
        }
    });
}

}  // namespace

ExitCode run_report(const mpi::Communicator& world, Arguments arguments) {
    std::string folder;
    double threshold = 5;
    bool strict = false;
    core::OptionSet options;
    options.add("output", folder, "folder for the pages instead of the input's own; created if it is not there");
    options.add("threshold", threshold, "with --compare: percent of time that count as slower", core::positive());
    options.add("strict", strict, "with --compare: figures that are unclear end it with exit code 3, too");
    if (asks_for_help(arguments)) {
        print_help(world, "report", options.help());
        return ExitCode::success;
    }
    std::vector<std::string> rest(arguments.begin(), arguments.end());
    const bool compares = std::erase(rest, "--compare") > 0;
    const std::vector<std::string> words = parse(world, options, rest, false);
    if (compares) {
        return compare(world, words, threshold, strict);
    }
    write_page(world, words, folder);
    return ExitCode::success;
}

}  // namespace moesaic::app
