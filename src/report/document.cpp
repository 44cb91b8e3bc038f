#include "report/document.hpp"
#include "core/counted.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>

namespace moesaic::report {
namespace {

/// Names of things and their units, as a column each.
Column column_of(const Axis& axis) {
    return {axis.label, axis.unit};
}

/// One row for every x of any series.
Table numbers_of(const LineChart& chart) {
    Table table{chart.title, {column_of(chart.x)}, {}};
    std::map<double, std::vector<Cell>> rows;
    std::size_t columns = 1;
    for (const Series& series : chart.series) {
        const bool has_interval = !series.low.empty();
        table.columns.push_back({series.name, chart.y.unit});
        if (has_interval) {
            table.columns.push_back({series.name + ", 95 % from", chart.y.unit});
            table.columns.push_back({series.name + ", to", chart.y.unit});
        }
        const auto limit = [](double value) { return std::isnan(value) ? Cell(std::string()) : Cell(value); };
        for (std::size_t i = 0; i < series.x.size(); ++i) {
            if (std::isnan(series.x[i])) {
                continue;
            }
            std::vector<Cell>& row = rows[series.x[i]];
            row.resize(columns, std::string());
            row.emplace_back(series.y[i]);
            if (has_interval) {
                row.emplace_back(limit(series.low[i]));
                row.emplace_back(limit(series.high[i]));
            }
        }
        columns = table.columns.size();
        for (auto& [x, row] : rows) {
            row.resize(columns, std::string());
        }
    }
    for (auto& [x, row] : rows) {
        row.front() = x;
        table.rows.push_back(std::move(row));
    }
    return table;
}

Table numbers_of(const BarChart& chart) {
    Table table{chart.title, {{"", ""}}, {}};
    for (const std::string& part : chart.parts) {
        table.columns.push_back({part, chart.x.unit});
    }
    for (std::size_t b = 0; b < chart.bars.size(); ++b) {
        std::vector<Cell> row = {chart.bars[b]};
        row.insert(row.end(), chart.values[b].begin(), chart.values[b].end());
        table.rows.push_back(std::move(row));
    }
    return table;
}

Table numbers_of(const HeatMap& chart) {
    Table table{chart.title, {{chart.rows_label + " / " + chart.columns_label, ""}}, {}};
    for (const std::string& column : chart.columns) {
        table.columns.push_back({column, chart.unit});
    }
    for (std::size_t r = 0; r < chart.rows.size(); ++r) {
        std::vector<Cell> row = {chart.rows[r]};
        row.insert(row.end(), chart.values[r].begin(), chart.values[r].end());
        table.rows.push_back(std::move(row));
    }
    return table;
}

/// The shortest text from which the same number is read again.
std::string exact(double value) {
    return fmt::format("{}", value);
}

std::string heading_of(const Column& column) {
    return column.unit.empty() ? column.name : column.name + " (" + column.unit + ")";
}

std::string interval_of(const Headline& headline) {
    std::string text;
    if (headline.samples > 0) {
        text = "n = " + readable_count(headline.samples);
    }
    if (headline.interval) {
        text += fmt::format("{}95 %: {} to {}", text.empty() ? "" : ", ", readable(headline.interval->first),
                            readable(headline.interval->second));
    }
    return text;
}

// HTML

constexpr const char* style = R"(
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px; margin: 1.5em auto; padding: 0 1.5em; }
h1 { font-size: 1.7em; margin: 0 0 .2em; } h2 { font-size: 1.25em; border-bottom: 2px solid #0072B2; padding-bottom: .15em; margin-top: 2em; }
.subtitle { color: #444; margin-top: 0; }
.headlines { display: flex; flex-wrap: wrap; gap: 1em; padding: 0; margin: 1.2em 0; list-style: none; }
.headlines li { border: 1px solid #bbb; border-top: 4px solid #0072B2; padding: .6em .9em; flex: 1 1 11em; max-width: 24em; }
.headlines b { display: block; font-size: 1.5em; } .headlines b span { font-size: .65em; font-weight: normal; } .headlines small { display: block; color: #444; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8em 0 1.4em; font-size: .92em; } caption { text-align: left; font-weight: bold; padding: .3em 0; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; } th { border-bottom: 2px solid #666; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1em 0 1.6em; } figcaption { font-weight: bold; } figure p { margin: .2em 0 .6em; color: #333; }
svg { display: block; width: 100%; height: auto; } summary { cursor: pointer; color: #444; }
@page { margin: 14mm; }
@media print { body { font-size: 10.5pt; margin: 0; max-width: none; padding: 0; } figure, tr, .headlines li { break-inside: avoid; }
  h2, caption, figcaption { break-after: avoid; } details { display: none; } .scroll { overflow: visible; } }
)";

std::string html_of(const Cell& cell) {
    if (const double* number = std::get_if<double>(&cell)) {
        return fmt::format("<td class=\"number\"><data value=\"{}\">{}</data></td>", exact(*number), readable(*number));
    }
    return "<td>" + escape_xml(std::get<std::string>(cell)) + "</td>";
}

/// Of one table: hundreds of ranks would make the page too long to read, and nothing of it is lost in the CSV file.
constexpr std::size_t most_rows_of_page = 200;

/// Numbers below their column's name are right-aligned, and so is the name.
bool holds_numbers(const Table& table, std::size_t column) {
    return std::any_of(table.rows.begin(), table.rows.end(), [&](const std::vector<Cell>& row) {
        return column < row.size() && std::holds_alternative<double>(row[column]);
    });
}

std::string html_of(const Table& table, bool with_caption = true) {
    std::string out = "<div class=\"scroll\"><table>\n";
    out += with_caption ? "<caption>" + escape_xml(table.title) + "</caption>\n" : "";
    out += "<thead><tr>";
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
        out += fmt::format("<th{} scope=\"col\">{}</th>", holds_numbers(table, c) ? " class=\"number\"" : "",
                           escape_xml(heading_of(table.columns[c])));
    }
    out += "</tr></thead>\n<tbody>\n";
    const std::size_t shown = std::min(table.rows.size(), most_rows_of_page);
    for (const std::vector<Cell>& row : std::span(table.rows).first(shown)) {
        out += "<tr>";
        for (const Cell& cell : row) {
            out += html_of(cell);
        }
        out += "</tr>\n";
    }
    out += "</tbody>\n</table></div>\n";
    const std::size_t left_out = table.rows.size() - shown;
    return out +
           (left_out > 0 ? fmt::format("<p>The CSV file has {}.</p>\n", core::counted(left_out, "more row")) : "");
}

std::string title_of(const Figure& figure) {
    return std::visit([](const auto& chart) { return chart.title; }, figure.chart);
}

std::string html_of(const Figure& figure) {
    return fmt::format(
        "<figure>\n<figcaption>{}</figcaption>\n{}{}<details><summary>Numbers</summary>\n{}</details>\n"
        "</figure>\n",
        escape_xml(title_of(figure)), figure.note.empty() ? "" : "<p>" + escape_xml(figure.note) + "</p>\n",
        std::visit([](const auto& chart) { return to_svg(chart); }, figure.chart), html_of(table_of(figure), false));
}

std::string html_of(const Paragraph& paragraph) {
    return "<p>" + escape_xml(paragraph.text) + "</p>\n";
}

std::string html_of(const Headline& headline) {
    std::string out =
        fmt::format("<li>{}<b><data value=\"{}\">{}</data> <span>{}</span></b>", escape_xml(headline.name),
                    exact(headline.value), readable(headline.value), escape_xml(headline.unit));
    for (const std::string& line : {interval_of(headline), headline.note}) {
        out += line.empty() ? "" : "<small>" + escape_xml(line) + "</small>";
    }
    return out + "</li>\n";
}

// Markdown

/// Text that no Markdown reader takes for markup of its own.
std::string escape_markdown(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (std::string("\\`*_{}[]<>#|").find(c) != std::string::npos) {
            out += '\\';
        }
        out += c == '\n' ? ' ' : c;
    }
    return out;
}

std::string markdown_of(const Cell& cell) {
    const double* const number = std::get_if<double>(&cell);
    return number != nullptr ? readable(*number) : escape_markdown(std::get<std::string>(cell));
}

/// One row of `every`.
std::string markdown_of(const Table& table, std::size_t every = 1) {
    std::string out = "**" + escape_markdown(table.title) + "**";
    out += every > 1 ? fmt::format(" (one row in {}; the CSV file has all)\n\n", every) : "\n\n";
    std::string rule = "|";
    out += '|';
    for (std::size_t c = 0; c < table.columns.size(); ++c) {
        out += ' ' + escape_markdown(heading_of(table.columns[c])) + " |";
        rule += holds_numbers(table, c) ? "---:|" : "---|";
    }
    out += '\n' + rule + '\n';
    for (std::size_t r = 0; r < table.rows.size(); r += every) {
        out += '|';
        for (const Cell& cell : table.rows[r]) {
            out += ' ' + markdown_of(cell) + " |";
        }
        out += '\n';
    }
    return out + '\n';
}

std::string markdown_of(const Figure& figure) {
    constexpr std::size_t most_rows = 25;
    const Table table = table_of(figure);
    const std::size_t every = std::max<std::size_t>(1, (table.rows.size() + most_rows - 1) / most_rows);
    return markdown_of(table, every) + (figure.note.empty() ? "" : escape_markdown(figure.note) + "\n\n");
}

std::string markdown_of(const Paragraph& paragraph) {
    return escape_markdown(paragraph.text) + "\n\n";
}

// CSV, RFC 4180

std::string quoted(const std::string& text) {
    if (text.find_first_of(",\"\r\n") == std::string::npos) {
        return text;
    }
    std::string out = "\"";
    for (const char c : text) {
        out += c == '"' ? "\"\"" : std::string(1, c);
    }
    return out + '"';
}

void append_csv(std::string& out, const std::string& section, const Table& table) {
    for (std::size_t r = 0; r < table.rows.size(); ++r) {
        for (std::size_t c = 0; c < table.rows[r].size(); ++c) {
            const Cell& cell = table.rows[r][c];
            const double* const number = std::get_if<double>(&cell);
            out += fmt::format("{},{},{},{},{},{}\r\n", quoted(section), quoted(table.title), r + 1,
                               quoted(table.columns[c].name), quoted(table.columns[c].unit),
                               number != nullptr ? exact(*number) : quoted(std::get<std::string>(cell)));
        }
    }
}

/// Sections of the page, what is damaged before all others.
std::vector<Section> sections_of(const Document& document) {
    std::vector<Section> sections = document.sections;
    if (!document.damage.empty()) {
        Section damage{"Damaged input", {Paragraph{"This could not be read and is left out:"}}};
        for (const std::string& problem : document.damage) {
            damage.blocks.emplace_back(Paragraph{problem});
        }
        sections.insert(sections.begin(), damage);
    }
    return sections;
}

std::string title_of(const Document& document) {
    return "moesaic: " + document.subject;
}

}  // namespace

Document join(const std::vector<Document>& documents) {
    if (documents.size() == 1) {
        return documents.front();
    }
    Document joined;
    for (const Document& document : documents) {
        joined.subject += (joined.subject.empty() ? "" : ", ") + document.subject;
        joined.subtitle += (joined.subtitle.empty() ? "" : " ") + document.subject + ": " + document.subtitle;
        for (Headline headline : document.headlines) {
            headline.name = document.subject + ": " + headline.name;
            joined.headlines.push_back(std::move(headline));
        }
        for (Section section : document.sections) {
            section.title = document.subject + ": " + section.title;
            joined.sections.push_back(std::move(section));
        }
        joined.damage.insert(joined.damage.end(), document.damage.begin(), document.damage.end());
    }
    return joined;
}

Table table_of(const Figure& figure) {
    return std::visit([](const auto& chart) { return numbers_of(chart); }, figure.chart);
}

Table table_of(const std::vector<Headline>& headlines) {
    Table table{"Headline", {{"figure", ""}, {"value", ""}, {"unit", ""}, {"n and 95 % interval", ""}, {"", ""}}, {}};
    for (const Headline& headline : headlines) {
        table.rows.push_back({headline.name, headline.value, headline.unit, interval_of(headline), headline.note});
    }
    return table;
}

std::string to_html(const Document& document) {
    std::string out = fmt::format(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
        "<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width\"/>\n"
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<h1>{}</h1>\n"
        "<p class=\"subtitle\">{}</p>\n",
        escape_xml(title_of(document)), style, escape_xml(title_of(document)), escape_xml(document.subtitle));
    if (!document.headlines.empty()) {
        out += "<ul class=\"headlines\">\n";
        for (const Headline& headline : document.headlines) {
            out += html_of(headline);
        }
        out += "</ul>\n";
    }
    for (const Section& section : sections_of(document)) {
        out += "<section>\n<h2>" + escape_xml(section.title) + "</h2>\n";
        for (const Block& block : section.blocks) {
            out += std::visit([](const auto& content) { return html_of(content); }, block);
        }
        out += "</section>\n";
    }
    return out + "</body>\n</html>\n";
}

std::string to_markdown(const Document& document) {
    std::string out = "# " + escape_markdown(title_of(document)) + "\n\n" + escape_markdown(document.subtitle) + "\n\n";
    out += document.headlines.empty() ? "" : markdown_of(table_of(document.headlines));
    for (const Section& section : sections_of(document)) {
        out += "## " + escape_markdown(section.title) + "\n\n";
        for (const Block& block : section.blocks) {
            out += std::visit([](const auto& content) { return markdown_of(content); }, block);
        }
    }
    return out;
}

std::string to_csv(const Document& document) {
    std::string out = "section,table,row,column,unit,value\r\n";
    append_csv(out, "Headline", table_of(document.headlines));
    for (const Section& section : document.sections) {
        for (const Block& block : section.blocks) {
            if (const auto* table = std::get_if<Table>(&block)) {
                append_csv(out, section.title, *table);
            } else if (const auto* figure = std::get_if<Figure>(&block)) {
                append_csv(out, section.title, table_of(*figure));
            }
        }
    }
    return out;
}

}  // namespace moesaic::report
