// moesaic report --compare A B
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "bench/compare.hpp"
#include "core/error.hpp"
#include "core/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace moesaic::app {
namespace {

using core::ExitCode;

/// The results of a file, or of all files *.json of a folder, in the order of their names.
std::vector<bench::Results> read_side(const std::filesystem::path& path) {
    std::vector<std::filesystem::path> files = {path};
    if (std::filesystem::is_directory(path)) {
        files.clear();
        for (const auto& entry : std::filesystem::directory_iterator(path)) {
            if (entry.path().extension() == ".json") {
                files.push_back(entry.path());
            }
        }
        core::require(!files.empty(), ExitCode::usage,
                      "{} has no results (no files *.json); write some with moesaic bench ... --output", path.string());
        std::sort(files.begin(), files.end());
    }
    std::vector<bench::Results> side;
    std::transform(files.begin(), files.end(), std::back_inserter(side), bench::read_results);
    return side;
}

}  // namespace

ExitCode run_report(const mpi::Communicator& world, Arguments arguments) {
    bool compare = false;
    double threshold = 5;
    core::OptionSet options;
    options.add("threshold", threshold, "with --compare: percent of time that count as slower", core::positive());
    if (asks_for_help(arguments)) {
        print_help(world, "report", options.help());
        return ExitCode::success;
    }
    std::vector<std::string> rest(arguments.begin(), arguments.end());
    compare = std::erase(rest, "--compare") > 0;
    const std::vector<std::string> words = parse(world, options, rest, false);
    bool slower = false;
    std::string text;
    world.agree([&] {
        core::require(compare && words.size() == 2, ExitCode::usage,
                      "report compares two sides ({} given); write moesaic report --compare A B, files or folders of "
                      "results",
                      words.size());
        const bench::Comparison comparison = bench::compare(read_side(words[0]), read_side(words[1]), threshold);
        text = to_text(comparison, threshold);
        slower = comparison.has_slower();
    });
    print(world, text);
    return slower ? ExitCode::verification_failed : ExitCode::success;
}

}  // namespace moesaic::app
