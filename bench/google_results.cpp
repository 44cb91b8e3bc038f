#include "bench/google_results.hpp"

#include <map>

namespace moesaic::bench {
namespace {

using nlohmann::ordered_json;

/// Nanoseconds of one unit of time.
const std::map<std::string, double> nanoseconds = {{"s", 1e9}, {"ms", 1e6}, {"us", 1e3}};

double real_time(const measure::Figure& figure, double sample) {
    const auto unit = nanoseconds.find(figure.unit);
    return unit != nanoseconds.end() ? unit->second * sample : 1e9 / sample;
}

ordered_json caches(const ordered_json& cpu) {
    ordered_json list = ordered_json::array();
    for (const auto& cache : cpu.value("caches", ordered_json::array())) {
        list.push_back({{"type", cache.value("type", "")},
                        {"level", cache.value("level", 0)},
                        {"size", cache.value("bytes", std::int64_t{0})},
                        {"num_sharing", cache.value("shared_by", 1)}});
    }
    return list;
}

}  // namespace

ordered_json to_google_benchmark(const measure::Results& results) {
    const ordered_json& rank = results.ranks.at(0);
    const ordered_json& cpu = rank.at("cpu");
    ordered_json document;
    document["context"] = {
        {"date", results.started},
        {"host_name", rank.value("host", "")},
        {"executable", "moesaic " + results.command},
        {"num_cpus", cpu.value("logical", 1)},
        {"mhz_per_cpu", cpu.at("mhz").is_number() ? cpu.at("mhz").get<double>() : 0.0},
        {"cpu_scaling_enabled", cpu.at("governor").is_string() && cpu.at("governor") != "performance"},
        {"caches", caches(cpu)},
        {"load_avg", {rank.at("system").value("load", 0.0)}},
        {"library_build_type", "release"}};
    ordered_json& list = document["benchmarks"] = ordered_json::array();
    std::int64_t family = 0;
    for (const measure::CaseResult& result : results.cases) {
        for (const measure::Figure& figure : result.figures) {
            if (figure.better == measure::Better::neither) {
                continue;
            }
            const bool is_time = nanoseconds.contains(figure.unit);
            const std::string name = result.name + "/" + figure.name +
                                     (is_time ? "" : "/time_per_" + figure.unit.substr(0, figure.unit.find('/')));
            for (std::size_t i = 0; i < figure.samples.size(); ++i) {
                const double time = real_time(figure, figure.samples[i]);
                list.push_back({{"name", name},
                                {"family_index", family},
                                {"per_family_instance_index", 0},
                                {"run_name", name},
                                {"run_type", "iteration"},
                                {"repetitions", figure.samples.size()},
                                {"repetition_index", i},
                                {"threads", 1},
                                {"iterations", 1},
                                {"real_time", time},
                                {"cpu_time", time},
                                {"time_unit", "ns"}});
            }
            ++family;
        }
    }
    return document;
}

}  // namespace moesaic::bench
