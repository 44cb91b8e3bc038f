#include "report/document.hpp"
#include "report/scale.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

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
        const double y = i;
        chart.series.push_back({std::to_string(i), {0, 1, 2, 3}, {y, y + 1, y, y + 1}, {}, {}});
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

/// Numbers of an attribute or element in order: `svg` after `before`.
std::vector<double> numbers_after(const std::string& svg, const std::string& before) {
    std::vector<double> numbers;
    for (std::size_t at = svg.find(before); at != std::string::npos; at = svg.find(before, at + 1)) {
        numbers.push_back(std::stod(svg.substr(at + before.size())));
    }
    return numbers;
}

std::size_t count_of(const std::string& text, const std::string& part) {
    std::size_t count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
        ++count;
    }
    return count;
}

/// Values that metrics and results may hold, whatever they mean. Charts end, are small, and stay within their frame.
TEST(Chart, ShowsWhateverNumbersThereAre) {
    constexpr double ulp = std::numeric_limits<double>::epsilon();
    constexpr double largest = std::numeric_limits<double>::max();
    constexpr double least = std::numeric_limits<double>::denorm_min();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const std::vector<std::vector<double>> hostile = {
        {2.5, 2.5 * (1 + ulp)}, {1e18, 1e18 + 128}, {0, 0},
        {-largest, largest},    {0, least},         {least, largest},
        {1e-300, 1e300},        {none, infinity},   {1e300, 1e300 * (1 + ulp)},
        {-1e-300, 1e-300},      {1, 1e18},          {-5, -5}};
    for (const std::vector<double>& values : hostile) {
        for (const bool logarithmic : {false, true}) {
            for (const bool special : {false, true}) {
                const Axis axis = {"axis", "", logarithmic, special && !logarithmic, special && logarithmic, special};
                const LineChart lines{"lines", axis, axis, {{"same", values, values, values, values}}};
                const BarChart bars{"bars", {"time", "ms"}, {"a", "b"}, {"x", "y"}, {values, values}};
                const HeatMap map{"map", "row", "column", "", {"a"}, {"0", "1"}, {values}};
                for (const std::string& svg : {to_svg(lines), to_svg(bars), to_svg(map)}) {
                    EXPECT_EQ(XmlReader(svg).check(), "");
                    EXPECT_LT(svg.size(), 20000U) << values[0] << ' ' << values[1];
                    for (const char* attribute : {" x=\"", " x1=\"", " x2=\"", " cx=\""}) {
                        for (const double x : numbers_after(svg, attribute)) {
                            EXPECT_GE(x, 0) << svg;
                            EXPECT_LE(x, 960) << svg;
                        }
                    }
                }
            }
        }
    }
}

TEST(Scale, NamesTicksSoThatTheyDiffer) {
    const auto labels = [](const Axis& axis, double low, double high) {
        std::vector<std::string> names;
        const Scale scale(axis, low, high, 0, 100);
        for (const Scale::Tick& tick : scale.ticks()) {
            names.push_back(tick.label);
        }
        return names;
    };
    using Names = std::vector<std::string>;
    EXPECT_EQ(labels({"", ""}, 0, 0.001), (Names{"0", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"}));
    EXPECT_EQ(labels({"", ""}, 100000, 100001),
              (Names{"100000.0", "100000.2", "100000.4", "100000.6", "100000.8", "100001.0"}));
    EXPECT_EQ(labels({"", "", true}, 3, 70), (Names{"2", "5", "10", "20", "50", "100"}));
    EXPECT_EQ(labels({"", "", true}, 1e-3, 1e3), (Names{"0.001", "0.01", "0.1", "1", "10", "100", "1000"}));
    EXPECT_EQ(labels({.label = "", .unit = "", .whole = true}, 1, 3), (Names{"1", "2", "3"}));
    const Axis bytes = {.label = "", .unit = "", .logarithmic = true, .bytes = true};
    EXPECT_EQ(labels(bytes, 1024, 1 << 20), (Names{"1 KiB", "4 KiB", "16 KiB", "64 KiB", "256 KiB", "1 MiB"}));
    for (const double low : {1e-3, 1.0, 123456.0, 1e17}) {
        for (const double range : {2e-6, 1e-4, 0.3, 40.0}) {
            const Names names = labels({"", ""}, low, low * (1 + range));
            EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size()) << low << ' ' << range;
            EXPECT_LE(names.size(), 12U);
        }
    }
    for (const double high : {1e2, 1e20, 1e300}) {
        EXPECT_LE(labels({"", "", true}, 1e-300, high).size(), 10U);
    }
}

TEST(Chart, FewPointsAreNotJoinedAndOneSeriesHasNoLegend) {
    LineChart chart{"few", {"x", ""}, {"y", ""}, {{"evaluation", {0, 1, 2}, {3, 2, 1}, {}, {}, false}}};
    EXPECT_EQ(count_of(to_svg(chart), "<polyline"), 0U);
    EXPECT_EQ(count_of(to_svg(chart), "<circle"), 3U);
    EXPECT_EQ(to_svg(chart).find(">evaluation<"), std::string::npos);
    chart.series.push_back({"training", {0, 1, 2, 3}, {3, 2, 1, 1}, {}, {}, false});
    chart.series.push_back({"points", {0, 1, 2, 3}, {3, 2, 1, 1}, {}, {}, true, Stroke::points});
    EXPECT_EQ(count_of(to_svg(chart), "<polyline"), 1U);
    EXPECT_NE(to_svg(chart).find(">evaluation<"), std::string::npos);
    chart.series.push_back(
        {.name = "limit", .x = {0, 3}, .y = {1, 1}, .low = {}, .high = {}, .stroke = Stroke::reference});
    EXPECT_EQ(count_of(to_svg(chart), "<polyline"), 2U);
}

/// A long run has more steps than a page has columns; its peaks stay.
TEST(Chart, LongSeriesAreThinnedOut) {
    Series series{.name = "long", .x = {}, .y = {}, .low = {}, .high = {}, .markers = false};
    for (int i = 0; i < 200000; ++i) {
        series.x.push_back(i);
        series.y.push_back(i == 77777 ? 100 : i % 10);
    }
    const std::string svg = to_svg(LineChart{"long", {"x", ""}, {"y", ""}, {series}});
    EXPECT_LT(svg.size(), 200000U);
    EXPECT_NE(svg.find(",14.0 "), std::string::npos);  // the top of the frame
}

/// Sums stand beside the frame, whatever they are.
TEST(Chart, TotalsOfBarsDoNotCrossTheFrame) {
    for (const double value : {1.0, 9.99, 283.0, 123456.789}) {
        const std::string svg = to_svg(BarChart{"bars", {"time", "ms"}, {"rank 0"}, {"a", "b"}, {{value, value / 3}}});
        const std::string total = ">" + readable(value + value / 3) + " ms<";
        const std::size_t at = svg.rfind("<text", svg.find(total));
        ASSERT_NE(svg.find(total), std::string::npos) << svg;
        const double frame_left = numbers_after(svg.substr(svg.find("<rect x=")), "<rect x=\"").front();
        const double frame_width = numbers_after(svg.substr(svg.find("<rect x=")), " width=\"").front();
        EXPECT_GT(numbers_after(svg.substr(at), "<text x=\"").front(), frame_left + frame_width) << svg;
    }
}

TEST(Document, AFewSamplesHaveNoInterval) {
    Document few;
    few.headlines.push_back({.name = "speed", .value = 80.52, .unit = "x", .samples = 1});
    EXPECT_NE(to_html(few).find("n = 1<"), std::string::npos) << to_html(few);
    EXPECT_EQ(to_html(few).find("95 %"), std::string::npos);
}

TEST(Document, SaysWhatOfItsInputIsDamaged) {
    Document damaged;
    EXPECT_EQ(to_html(damaged).find("Damaged"), std::string::npos);
    damaged.damage = {"metrics.jsonl:3: nonsense"};
    EXPECT_NE(to_html(damaged).find("metrics.jsonl:3: nonsense"), std::string::npos);
    EXPECT_NE(to_markdown(join({damaged, {}})).find("metrics.jsonl:3: nonsense"), std::string::npos);
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
