// moesaic report
#include "app/command.hpp"
#include "app/report_page.hpp"
#include "app/runtime.hpp"
#include "core/options.hpp"

#include <fmt/format.h>

#include <filesystem>

namespace moesaic::app {
namespace {

namespace fs = std::filesystem;

/// Where the report of `input` goes, without ending: into a run's folder, beside a file, or into `folder` if given.
fs::path report_name(const fs::path& input, const std::string& folder) {
    const fs::path name = fs::is_directory(input) ? "report" : input.stem();
    const fs::path beside = fs::is_directory(input) ? input : input.parent_path();
    return (folder.empty() ? beside : fs::path(folder)) / name;
}

}  // namespace

core::ExitCode run_report(const mpi::Communicator& world, Arguments arguments) {
    std::string folder;
    core::OptionSet options;
    options.add("output", folder, "folder for the report instead of the input's own");
    if (asks_for_help(arguments)) {
        print_help(world, "report", options.help());
        return core::ExitCode::success;
    }
    const std::vector<std::string> inputs = parse(world, options, arguments, false);
    world.agree([&] {
        core::require(
            !inputs.empty(), core::ExitCode::usage,
            "no input given (there is nothing to report on); write moesaic report FOLDER, the output folder of "
            "a run, or FILE, the result of a benchmark");
        for (const std::string& input : inputs) {
            if (world.is_root()) {
                const fs::path name = report_name(input, folder);
                write_report(describe(input), name);
                print(world, fmt::format("{0}.html, {0}.md, {0}.csv\n", name.string()));
            }
        }
    });
    return core::ExitCode::success;
}

}  // namespace moesaic::app
