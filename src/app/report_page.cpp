#include "app/report_page.hpp"

#include "core/error.hpp"
#include "io/files.hpp"
#include "measure/rules.hpp"
#include "report/run_page.hpp"

#include <algorithm>
#include <exception>

namespace moesaic::app {

namespace fs = std::filesystem;

bool is_run(const fs::path& input) {
    std::error_code ignored;  // what can't be looked at is none
    return fs::exists(input / "run.json", ignored);
}

std::vector<fs::path> inputs_of(const fs::path& input) {
    if (!fs::is_directory(input)) {
        return {input};
    }
    std::vector<fs::path> found;
    for (const fs::directory_entry& entry : fs::directory_iterator(input)) {
        const bool is_result =
            entry.is_regular_file() && entry.path().extension() == ".json" && measure::looks_like_results(entry.path());
        if (is_result || is_run(entry.path())) {
            found.push_back(entry.path());
        }
    }
    std::sort(found.begin(), found.end());
    if (is_run(input)) {
        found.insert(found.begin(), input);
    }
    core::require(
        !found.empty(), core::ExitCode::usage,
        "{} has nothing to report on (neither run.json, nor results of benchmarks, nor folders of runs); give "
        "the output.dir of a run, or what moesaic bench ... --output wrote",
        input.string());
    return found;
}

void write_report(const report::Document& document, const fs::path& name) {
    io::write_file_atomically(name.string() + ".html", report::to_html(document));
    io::write_file_atomically(name.string() + ".md", report::to_markdown(document));
    io::write_file_atomically(name.string() + ".csv", report::to_csv(document));
}

std::string try_to_report(const fs::path& folder, const fs::path& name) noexcept {
    try {
        write_report(report::describe_run(folder), name);
        return {};
    } catch (const std::exception& error) {
        return error.what();
    }
}

}  // namespace moesaic::app
