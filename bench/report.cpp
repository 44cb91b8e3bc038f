#include "bench/report.hpp"

#include "core/build_info.hpp"

#include <fmt/format.h>

#include <cstdio>

namespace moesaic::bench {

void Report::say(std::string_view text) const {
    if (world_.is_root()) {
        fmt::print("{}", text);
        std::fflush(stdout);
    }
}

void Report::add(const std::string& name, const std::string& unit, const Summary& samples) {
    figures_.push_back({name, unit, samples.median, samples});
}

void Report::add_limit(const std::string& name, const std::string& unit, const Summary& samples) {
    figures_.push_back({name, unit, samples.max, samples});
}

void Report::add(const std::string& name, const std::string& unit, double value) {
    figures_.push_back({name, unit, value, {}});
}

void Report::print_figures() const {
    for (const Figure& figure : figures_) {
        say(fmt::format("FOM {} = {:.6g} {}\n", figure.name, figure.value, figure.unit));
    }
}

nlohmann::ordered_json Report::to_json(std::string_view benchmark, const Environment& environment) const {
    nlohmann::ordered_json document;
    document["schema"] = "moesaic-bench-1";
    document["benchmark"] = benchmark;
    document["environment"] = {{"cpu", environment.cpu},
                               {"host", environment.host},
                               {"isa", environment.isa},
                               {"ranks", environment.ranks},
                               {"threads", environment.threads},
                               {"compiler", fmt::format("{} {} {}", core::build_info::compiler,
                                                        core::build_info::build_type, core::build_info::flags)},
                               {"version", core::build_info::version},
                               {"git_revision", core::build_info::git_revision}};
    document["figures"] = nlohmann::ordered_json::array();
    for (const Figure& figure : figures_) {
        nlohmann::ordered_json entry = {{"name", figure.name}, {"unit", figure.unit}, {"value", figure.value}};
        entry["n"] = figure.samples.n;
        if (figure.samples.n > 0) {
            entry["min"] = figure.samples.min;
            entry["median"] = figure.samples.median;
            entry["max"] = figure.samples.max;
            entry["interval"] = {figure.samples.low, figure.samples.high};
        }
        document["figures"].push_back(std::move(entry));
    }
    return document;
}

}  // namespace moesaic::bench
