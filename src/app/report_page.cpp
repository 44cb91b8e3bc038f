#include "app/report_page.hpp"

#include "io/files.hpp"
#include "report/run_page.hpp"

namespace moesaic::app {

report::Document describe(const std::filesystem::path& input) {
    return report::describe_run(input);
}

void write_report(const report::Document& document, const std::filesystem::path& name) {
    io::write_file_atomically(name.string() + ".html", report::to_html(document));
    io::write_file_atomically(name.string() + ".md", report::to_markdown(document));
    io::write_file_atomically(name.string() + ".csv", report::to_csv(document));
}

}  // namespace moesaic::app
