// A report as content: sections of text, tables and charts, from which one page of HTML, Markdown and CSV are written.
#pragma once

#include "report/chart.hpp"

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace moesaic::report {

/// Text, or a number that readers see rounded and programs exactly.
using Cell = std::variant<std::string, double>;

struct Column {
    std::string name;
    std::string unit;  ///< or empty
};

struct Table {
    std::string title;
    std::vector<Column> columns;
    std::vector<std::vector<Cell>> rows;
};

struct Paragraph {
    std::string text;
};

/// A chart. Its numbers go into all three formats as a table.
struct Figure {
    std::variant<LineChart, BarChart, HeatMap> chart;
    std::string note;  ///< what to see in it, how it was measured
};

using Block = std::variant<Paragraph, Table, Figure>;

struct Section {
    std::string title;
    std::vector<Block> blocks;
};

/// A number that stands for the whole, with its samples and the 95 % interval of their median where it was measured
/// repeatedly.
struct Headline {
    std::string name;
    double value = 0;
    std::string unit;
    double samples = 0;
    std::optional<std::pair<double, double>> interval = {};
    std::string note = {};
};

struct Document {
    std::string subject;  ///< what it is about: the title after "moesaic: "
    std::string subtitle;
    std::vector<Headline> headlines;
    std::vector<Section> sections;
    std::vector<std::string> damage = {};  ///< what of the input could not be read and is left out, as errors
};

/// One page about several subjects, in their order; titles of sections and headlines begin with the subject.
[[nodiscard]] Document join(const std::vector<Document>& documents);

/// The numbers that a chart shows.
[[nodiscard]] Table table_of(const Figure& figure);
/// All headlines as a table.
[[nodiscard]] Table table_of(const std::vector<Headline>& headlines);

/// One page without scripts that needs no other file: XHTML syntax of HTML5, with inline SVG. Numbers are <data>
/// elements that keep the exact value.
[[nodiscard]] std::string to_html(const Document& document);
/// Tables in the style of GitHub; charts as their tables, long ones thinned out.
[[nodiscard]] std::string to_markdown(const Document& document);
/// One line per number or text: section, table, row, column, unit, value.
[[nodiscard]] std::string to_csv(const Document& document);

}  // namespace moesaic::report
