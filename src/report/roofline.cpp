#include "report/roofline.hpp"

#include "bench/shapes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

namespace moesaic::report {
namespace {

using bench::CaseResult;
using bench::Results;

/// A parameter of a case as a number; 0 if it is none.
double parameter(const CaseResult& result, std::string_view key) {
    for (const auto& [name, value] : result.parameters) {
        double number = 0;
        if (name == key && std::from_chars(value.data(), value.data() + value.size(), number).ec == std::errc()) {
            return number;
        }
    }
    return 0;
}

std::string text_parameter(const CaseResult& result, std::string_view key) {
    for (const auto& [name, value] : result.parameters) {
        if (name == key) {
            return value;
        }
    }
    return {};
}

struct Ceilings {
    double peak = 0;       ///< GFLOP/s of a rank
    double bandwidth = 0;  ///< GB/s of a rank
    std::string peak_name;
};

std::optional<Ceilings> ceilings_of(const Results& results) {
    for (const CaseResult& result : results.cases) {
        const bench::Figure* bandwidth = result.find("dram_read");
        for (const char* name : {"amx_peak", "isa_peak"}) {
            const bench::Figure* const peak = result.find(name);
            if (peak != nullptr && bandwidth != nullptr && peak->value > 0 && bandwidth->value > 0) {
                return Ceilings{peak->value, bandwidth->value, name};
            }
        }
    }
    return {};
}

/// Products of BF16 operands, [m, k] times [k, n], with FP32 results.
void add_products(const CaseResult& result, std::vector<Series>& series) {
    const double n = parameter(result, "n");
    const double k = parameter(result, "k");
    for (const std::string_view stem : {"gemm_M", "onednn_M"}) {
        Series points{fmt::format("{} {}", result.name, stem.substr(0, stem.size() - 2)), {}, {}, {}, {}, true};
        for (const bench::Figure& figure : result.figures) {
            double m = 0;
            if (figure.name.starts_with(stem)) {
                std::from_chars(figure.name.data() + stem.size(), figure.name.data() + figure.name.size(), m);
            }
            if (m > 0 && n > 0 && k > 0) {
                points.x.push_back(2 * m * n * k / (2 * n * k + 2 * m * k + 4 * m * n));
                points.y.push_back(figure.value);
                points.low.push_back(figure.summary.low);
                points.high.push_back(figure.summary.high);
            }
        }
        if (!points.x.empty()) {
            series.push_back(points);
        }
    }
}

/// Base weights only; each expert is read once, and all are in use.
void add_layer(const CaseResult& result, std::vector<Series>& series) {
    const double tokens = parameter(result, "tokens");
    const std::string name = text_parameter(result, "shape");
    if (name.empty()) {
        return;
    }
    bench::LayerShape shape = bench::layer_shape(name);
    const auto size = [&](const char* key) { return static_cast<bench::index_t>(parameter(result, key)); };
    shape = shape.with({"", size("hidden"), size("intermediate"), size("experts"), size("experts-per-token")});
    const double rows = tokens * static_cast<double>(shape.experts_per_token);
    const double experts = std::min(rows, static_cast<double>(shape.experts));
    const double gigaflop = 2e-9 * rows * static_cast<double>(shape.expert_parameters());
    for (const char* pass : {"layer_forward", "layer_backward"}) {
        const bench::Figure* const time = result.find(pass);
        if (time == nullptr || time->unit != "ms" || time->summary.low <= 0 || experts <= 0) {
            continue;
        }
        series.push_back({fmt::format("{} {}", result.name, pass),
                          {rows / experts},
                          {gigaflop / (time->value * 1e-3)},
                          {gigaflop / (time->summary.high * 1e-3)},
                          {gigaflop / (time->summary.low * 1e-3)},
                          true});
    }
}

}  // namespace

std::optional<Section> roofline_section(const Results& results) {
    const auto ceilings = ceilings_of(results);
    if (!ceilings) {
        return {};
    }
    LineChart chart{
        "Roofline of a rank", {"operations per byte from memory", "FLOP/B", true}, {"speed", "GFLOP/s", true}, {}};
    std::vector<Series> points;
    for (const CaseResult& result : results.cases) {
        if (result.benchmark == "kernels") {
            add_products(result, points);
        } else if (result.benchmark == "layer") {
            add_layer(result, points);
        }
    }
    const double ridge = ceilings->peak / ceilings->bandwidth;
    double least = ridge / 10;
    double most = ridge * 10;
    for (const Series& series : points) {
        least = std::min(least, *std::min_element(series.x.begin(), series.x.end()));
        most = std::max(most, *std::max_element(series.x.begin(), series.x.end()));
    }
    chart.series.push_back({fmt::format("limits: dram_read {:.4g} GB/s, {} {:.4g} GFLOP/s", ceilings->bandwidth,
                                        ceilings->peak_name, ceilings->peak),
                            {least, ridge, most},
                            {least * ceilings->bandwidth, ceilings->peak, ceilings->peak},
                            {},
                            {},
                            false});
    for (Series& series : points) {
        chart.series.push_back(std::move(series));
    }
    return Section{
        "Roofline",
        {Figure{chart,
                "The limits were measured in the same run. Operations are those of the base weights; bytes are "
                "what must come from memory at least, so that caches can lift a point above the slope."}}};
}

}  // namespace moesaic::report
