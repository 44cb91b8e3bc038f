#include "report/document.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "support/xml.hpp"

namespace moesaic::report {
namespace {

using moesaic::test::XmlReader;

constexpr double none = std::numeric_limits<double>::quiet_NaN();
const std::string nasty = "a <b> & \"c\" | d\x01, e";

std::vector<Figure> figures() {
    LineChart lines{nasty, {nasty, "s", true}, {"y", "", true}, {}};
    lines.series.push_back({nasty, {1, 10, 100}, {0, 2.5, none}, {1, 2, 3}, {2, 3, 4}, true});
    lines.series.push_back({"other", {1}, {3}, {}, {}, true});
    const LineChart empty{"empty", {"x", ""}, {"y", ""}, {{"none", {}, {}, {}, {}}}};
    const LineChart constant{"constant", {"x", ""}, {"y", ""}, {{"same", {1, 2}, {5, 5}, {}, {}}}};
    const BarChart bars{"bars", {"time", "ms"}, {"rank 0", nasty}, {"a", "b"}, {{1, 0}, {0.1234567890123, 3}}};
    const HeatMap map{"map", "layer", "expert", "of mean", {"layer 0"}, {"0", "1"}, {{0.5, 1.5}}};
    const HeatMap no_values{"zeros", "layer", "expert", "", {"layer 0"}, {"0"}, {{0}}};
    return {{lines, nasty}, {empty, ""}, {constant, ""}, {bars, "note"}, {map, ""}, {no_values, ""}};
}

TEST(XmlReader, FindsErrors) {
    EXPECT_EQ(XmlReader("<a b=\"1 &lt; 2\"><c/>text</a>\n").check(), "");
    for (const char* wrong : {"<a>", "<a></b>", "<a b=1></a>", "<a b=\"<\"></a>", "<a>&nbsp;</a>", "<a>\x01</a>",
                              "text", "<a>1 < 2</a>", "<a b=\"1></a>", "</a>"}) {
        EXPECT_NE(XmlReader(wrong).check(), "") << wrong;
    }
}

TEST(Chart, IsWellFormedWhateverItShows) {
    for (const Figure& figure : figures()) {
        const std::string svg = std::visit([](const auto& chart) { return to_svg(chart); }, figure.chart);
        EXPECT_EQ(XmlReader(svg).check(), "");
        EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
        EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
        EXPECT_EQ(svg.find(" id="), std::string::npos) << svg;
    }
}

TEST(Chart, SeriesDifferWithoutColour) {
    LineChart chart{"many", {"x", ""}, {"y", ""}, {}};
    for (int i = 0; i < 5; ++i) {
        chart.series.push_back({std::to_string(i), {0, 1}, {0.0 + i, 1.0 + i}, {}, {}, true});
    }
    const std::string svg = to_svg(chart);
    for (const char* dash : {"\"7 3\"", "\"2 3\"", "\"9 3 2 3\"", "\"12 4\""}) {
        EXPECT_NE(svg.find(dash), std::string::npos) << dash;
    }
    const XmlReader reader = [&] {
        XmlReader r(svg);
        EXPECT_EQ(r.check(), "");
        return r;
    }();
    for (const char* marker : {"circle", "rect", "polygon"}) {
        EXPECT_NE(std::find(reader.elements().begin(), reader.elements().end(), marker), reader.elements().end());
    }
}

Document document() {
    Document all{
        "subject " + nasty, "subtitle", {{"speed", 1234.5678, "tokens/s", 20, std::pair{1200.25, 1300.5}, ""}}, {}};
    Section section{nasty,
                    {Paragraph{nasty}, Table{nasty, {{"name", ""}, {"value", "ms"}}, {{nasty, 0.1}, {"b", 1e-9}}}}};
    for (const Figure& figure : figures()) {
        section.blocks.emplace_back(figure);
    }
    all.sections.push_back(section);
    return all;
}

TEST(Document, IsOnePageWithoutScriptsOrOtherFiles) {
    const std::string html = to_html(document());
    XmlReader reader(html);
    EXPECT_EQ(reader.check(), "");
    for (const std::string& element : reader.elements()) {
        for (const char* foreign : {"script", "link", "img", "iframe", "object", "use"}) {
            EXPECT_NE(element, foreign);
        }
    }
    EXPECT_EQ(html.find("url("), std::string::npos);
    EXPECT_EQ(html.find("@import"), std::string::npos);
    EXPECT_NE(html.find("n = 20, 95 %: 1200 to 1300"), std::string::npos);
}

TEST(Document, JoinsSubjectsOnOnePage) {
    Document other = document();
    other.subject = "other";
    const Document joined = join({document(), other});
    EXPECT_EQ(joined.subject, document().subject + ", other");
    ASSERT_EQ(joined.sections.size(), 2U);
    EXPECT_EQ(joined.sections[1].title, "other: " + nasty);
    ASSERT_EQ(joined.headlines.size(), 2U);
    EXPECT_EQ(joined.headlines[1].name, "other: speed");
    EXPECT_EQ(XmlReader(to_html(joined)).check(), "");
    EXPECT_EQ(to_csv(join({other})), to_csv(other));
}

/// All numbers of the CSV file, which are those of the HTML page.
TEST(Document, FormatsHoldTheSameNumbers) {
    XmlReader reader(to_html(document()));
    ASSERT_EQ(reader.check(), "");
    std::vector<std::string> of_page = reader.data();
    std::istringstream csv(to_csv(document()));
    std::vector<std::string> of_csv;
    std::string line;
    std::getline(csv, line);
    EXPECT_EQ(line, "section,table,row,column,unit,value\r");
    while (std::getline(csv, line)) {
        const std::string value = line.substr(line.rfind(',') + 1, line.size() - line.rfind(',') - 2);
        std::istringstream number(value);
        double parsed = 0;
        if (value == "nan" || (number >> parsed && number.peek() == EOF)) {
            of_csv.push_back(value);
        }
    }
    std::sort(of_page.begin(), of_page.end());
    std::sort(of_csv.begin(), of_csv.end());
    EXPECT_EQ(of_page, of_csv);
    EXPECT_NE(std::find(of_csv.begin(), of_csv.end(), "0.1234567890123"), of_csv.end());
    EXPECT_NE(std::find(of_csv.begin(), of_csv.end(), "1234.5678"), of_csv.end());
    const std::string markdown = to_markdown(document());
    for (const char* number : {"| 1235 |", "| 0.1 |", "| 1e-09 |", "| 0.1235 |"}) {
        EXPECT_NE(markdown.find(number), std::string::npos) << number << '\n' << markdown;
    }
}

}  // namespace
}  // namespace moesaic::report
