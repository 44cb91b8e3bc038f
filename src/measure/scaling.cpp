#include "measure/scaling.hpp"

#include <algorithm>
#include <map>
#include <tuple>

namespace moesaic::measure {
namespace {

bool is_speed(const CaseResult& result, const Figure& figure) {
    return figure.summary.n > 0 && figure.value > 0 &&
           (figure.better != Better::neither || result.benchmark == "machine");
}

/// Work of all ranks per second, in a unit of its own.
double speed(const CaseResult& result, const Figure& figure, double value) {
    const double work = result.alone ? static_cast<double>(result.ranks) : 1;
    return figure.better == Better::lower ? work / value : work * value;
}

std::tuple<index_t, index_t> order(const CaseResult* result) {
    return {result->ranks, result->threads};
}

Scaling scaling_of(const std::string& name, const Figure& figure_of_first,
                   const std::vector<const CaseResult*>& cases) {
    Scaling scaling{name, figure_of_first.name, {}};
    const CaseResult& first = *cases.front();
    const double base = speed(first, figure_of_first, figure_of_first.value);
    for (const CaseResult* result : cases) {
        const Figure* const figure = result->find(figure_of_first.name);
        if (figure == nullptr || !is_speed(*result, *figure)) {
            continue;
        }
        const auto over = [&](double value) { return value > 0 ? speed(*result, *figure, value) / base : 0; };
        // The interval is that of the median; a limit's value is another one.
        const bool is_median = figure->better != Better::neither;
        const auto [low, high] = std::minmax({over(is_median ? figure->summary.low : figure->value),
                                              over(is_median ? figure->summary.high : figure->value)});
        const auto threads = static_cast<double>(result->ranks * result->threads);
        const double ideal = threads / static_cast<double>(first.ranks * first.threads);
        scaling.points.push_back({result, over(figure->value), low, high, 100 * over(figure->value) / ideal});
    }
    return scaling;
}

}  // namespace

std::vector<Scaling> scaling_of(const std::vector<CaseResult>& cases) {
    std::map<std::string, std::vector<const CaseResult*>> by_name;
    std::vector<std::string> names;  // in the order of the cases
    for (const CaseResult& result : cases) {
        const std::size_t at = result.name.rfind('@');
        if (at != std::string::npos) {
            const std::string name = result.name.substr(0, at);
            auto& of_name = by_name[name];
            if (of_name.empty()) {
                names.push_back(name);
            }
            of_name.push_back(&result);
        }
    }
    std::vector<Scaling> all;
    for (const std::string& name : names) {
        std::vector<const CaseResult*>& of_name = by_name[name];
        std::sort(of_name.begin(), of_name.end(),
                  [](const CaseResult* a, const CaseResult* b) { return order(a) < order(b); });
        for (const Figure& figure : of_name.front()->figures) {
            if (is_speed(*of_name.front(), figure)) {
                all.push_back(scaling_of(name, figure, of_name));
            }
        }
    }
    return all;
}

}  // namespace moesaic::measure
