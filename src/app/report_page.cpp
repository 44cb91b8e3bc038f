#include "app/report_page.hpp"

#include "io/files.hpp"
#include "measure/results.hpp"
#include "report/results_page.hpp"
#include "report/run_page.hpp"

namespace moesaic::app {

report::Document describe(const std::filesystem::path& input) {
    return std::filesystem::is_regular_file(input) ? report::describe_results(measure::read_results(input))
                                                   : report::describe_run(input);
}

void write_report(const report::Document& document, const std::filesystem::path& name) {
    io::write_file_atomically(name.string() + ".html", report::to_html(document));
    io::write_file_atomically(name.string() + ".md", report::to_markdown(document));
    io::write_file_atomically(name.string() + ".csv", report::to_csv(document));
}

}  // namespace moesaic::app
