#include "app/report_page.hpp"

#include "io/files.hpp"

namespace moesaic::app {

void write_report(const bench::Document& document, const std::filesystem::path& name) {
    io::write_file_atomically(name.string() + ".html", bench::to_html(document));
    io::write_file_atomically(name.string() + ".md", bench::to_markdown(document));
    io::write_file_atomically(name.string() + ".csv", bench::to_csv(document));
}

}  // namespace moesaic::app
