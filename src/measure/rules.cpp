#include "measure/rules.hpp"

#include "io/json.hpp"
#include "measure/headline.hpp"
#include "measure/results.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>

namespace moesaic::measure {
namespace {

/// Of numbers that were computed twice from the same samples.
bool same(double a, double b) {
    constexpr double rounding = 1e-9;
    return std::abs(a - b) <= rounding * std::max(std::abs(a), std::abs(b));
}

class RuleCheck {
public:
    explicit RuleCheck(const std::filesystem::path& file)
        : source_(file.string()), document_(io::read_json(file)), results_(read_results(file)) {}

    std::vector<std::string> run() {
        expect(results_.complete, "the run did not come to its end (complete is false)");
        expect(!results_.cases.empty(), "there are no cases");
        const auto cases = io::get<std::vector<nlohmann::json>>(document_, "cases", source_);
        std::set<std::string> names;
        for (std::size_t i = 0; i < results_.cases.size(); ++i) {
            const CaseResult& result = results_.cases[i];
            expect(names.insert(result.name).second, "{}: several cases have this name", result.name);
            check_case(result, cases[i]);
        }
        check_headline();
        return broken_;
    }

private:
    template <class... Arguments>
    void expect(bool kept, fmt::format_string<const Arguments&...> rule, const Arguments&... arguments) {
        if (!kept) {
            broken_.push_back(fmt::format(rule, arguments...));
        }
    }

    void check_case(const CaseResult& result, const nlohmann::json& stated) {
        expect(!result.checks.empty() || result.benchmark == "machine", "{}: nothing was verified (no checks)",
               result.name);
        for (const Check& check : result.checks) {
            expect(check.error <= check.bound, "{}: {} has an error of {} (at most {})", result.name, check.name,
                   check.error, check.bound);
        }
        const auto figures = io::get<std::vector<nlohmann::json>>(stated, "figures", source_);
        std::set<std::string> names;
        for (std::size_t i = 0; i < result.figures.size(); ++i) {
            const Figure& figure = result.figures[i];
            expect(names.insert(figure.name).second, "{}/{}: several figures have this name", result.name, figure.name);
            if (figure.summary.n > 0) {
                check_figure(result.name + "/" + figure.name, figure, figures[i]);
            }
        }
    }

    /// What is stated of the samples is what they say.
    void check_figure(const std::string& name, const Figure& figure, const nlohmann::json& stated) {
        const Summary& summary = figure.summary;
        expect(io::get<index_t>(stated, "n", source_) == summary.n, "{}: n is not the number of samples ({})", name,
               summary.n);
        for (const auto& [key, value] :
             {std::pair{"min", summary.min}, {"median", summary.median}, {"max", summary.max}}) {
            expect(same(io::get<double>(stated, key, source_), value), "{}: {} is not that of the samples ({})", name,
                   key, value);
        }
        const auto interval = io::get<std::vector<double>>(stated, "interval", source_);
        expect(interval.size() == 2 && same(interval[0], summary.low) && same(interval[1], summary.high),
               "{}: interval is not that of the samples ([{}, {}])", name, summary.low, summary.high);
        expect(same(figure.value, summary.median) || same(figure.value, best_of(figure.samples)),
               "{}: value {} is neither the median of the samples nor that of the best quarter", name, figure.value);
    }

    void check_headline() {
        const auto expected = headline_of(results_.cases);
        expect(expected.has_value() == results_.headline.has_value(),
               "headline: {} (it comes from a case of the benchmark reference with {} repetitions or more)",
               results_.headline ? "no case allows one" : "there is none", Summary::least_of_interval);
        if (expected && results_.headline) {
            expect(
                same(expected->value, results_.headline->value) && expected->case_name == results_.headline->case_name,
                "headline: {} of {} is not the fastest of the reference workload ({} of {})", results_.headline->value,
                results_.headline->case_name, expected->value, expected->case_name);
        }
    }

    std::string source_;
    nlohmann::json document_;
    Results results_;
    std::vector<std::string> broken_;
};

}  // namespace

bool looks_like_results(const std::filesystem::path& file) {
    constexpr std::size_t enough = 256;  // the schema is the first member
    std::string begin(enough, '\0');
    std::ifstream in(file);
    in.read(begin.data(), static_cast<std::streamsize>(begin.size()));
    return begin.find("\"moesaic-bench-") != std::string::npos;
}

std::vector<std::string> broken_rules(const std::filesystem::path& file) {
    return RuleCheck(file).run();
}

}  // namespace moesaic::measure
