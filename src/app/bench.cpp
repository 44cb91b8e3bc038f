// moesaic bench NAME and moesaic bench suite
#include "app/command.hpp"
#include "app/train_configuration.hpp"
#include "bench/case_runner.hpp"
#include "core/error.hpp"
#include "core/option_sources.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <span>

namespace moesaic::app {
namespace {

using core::ExitCode;

/// Those of the settings whose keys begin with `prefix`, without it.
std::vector<std::pair<std::string, std::string>> parameters_of(std::span<const core::OptionSet::Setting> settings,
                                                               const std::string& prefix) {
    std::vector<std::pair<std::string, std::string>> parameters;
    for (const core::OptionSet::Setting& setting : settings) {
        if (setting.key.starts_with(prefix)) {
            parameters.emplace_back(setting.key.substr(prefix.size()), setting.value);
        }
    }
    return parameters;
}

/// The first word, or what follows --config.
std::string deck_of(Arguments arguments) {
    constexpr const char* source = "on the command line";
    if (!arguments.empty() && !arguments.front().starts_with("-")) {
        return core::expand_path(arguments.front(), "config", source);
    }
    constexpr std::string_view option = "--config";
    std::string deck;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == option && i + 1 < arguments.size()) {
            deck = arguments[i + 1];
        } else if (arguments[i].starts_with(fmt::format("{}=", option))) {
            deck = arguments[i].substr(option.size() + 1);
        }
    }
    core::require(!deck.empty(), ExitCode::usage,
                  "bench suite needs a deck (a file that lists benchmarks); give one first, as in moesaic bench suite "
                  "inputs/bench-quick.cfg");
    return core::expand_path(deck, "config", source);
}

/// Sections of a deck are cases: [BENCHMARK] or [BENCHMARK.LABEL].
std::vector<bench::CaseSpec> cases_of_deck(const std::string& deck) {
    std::vector<bench::CaseSpec> specs;
    std::set<std::string> names;
    for (const core::Section& section : core::read_config_file(deck).sections) {
        const std::string word = section.name.substr(0, section.name.find('.'));
        const bench::BenchmarkKind* const kind = bench::find_benchmark(word);
        if (kind == nullptr) {
            std::vector<std::string> known;
            for (const bench::BenchmarkKind& each : bench::benchmark_kinds()) {
                known.emplace_back(each.name);
            }
            const std::string near = core::nearest(word, known);
            core::fail(ExitCode::usage, "{}:{}: [{}] is no benchmark (known are {}); {}", deck, section.line,
                       section.name, fmt::join(known, ", "),
                       near.empty() ? "write [BENCHMARK] or [BENCHMARK.LABEL]" : "did you mean " + near + "?");
        }
        core::require(section.name.find('@') == std::string::npos, ExitCode::usage,
                      "{}:{}: [{}] has @ in its name (it stands before ranks and threads in results); leave it out",
                      deck, section.line, section.name);
        core::require(names.insert(section.name).second, ExitCode::usage,
                      "{}:{}: [{}] is there twice (names of cases are unique); write [{}.LABEL]", deck, section.line,
                      section.name, word);
        specs.emplace_back(*kind, section.name);
    }
    core::require(!specs.empty(), ExitCode::usage, "{} lists no benchmark (sections as [layer]); write some", deck);
    return specs;
}

}  // namespace

ExitCode run_bench(const bench::BenchmarkKind& kind, const mpi::Communicator& world, Arguments arguments) {
    bench::BenchOptions common;
    core::OptionSet options;
    std::vector<bench::CaseSpec> specs;
    specs.emplace_back(kind, std::string(kind.name));
    specs.back().declare(options, "");
    const std::size_t own_options = options.keys().size();
    common.declare(options);
    if (kind.takes_run) {
        options.ignore_in_files(TrainConfiguration().options.keys());
    }
    const std::string command = fmt::format("bench {}", kind.name);
    if (!parse_options_only(world, command, options, arguments)) {
        return ExitCode::success;
    }
    const std::vector<core::OptionSet::Setting> settings = options.settings();
    specs.back().parameters = parameters_of(std::span(settings).first(own_options), "");
    bench::run_cases(world, specs, common, command, options.config_file().string());
    return ExitCode::success;
}

ExitCode run_bench_suite(const mpi::Communicator& world, Arguments arguments) {
    bench::BenchOptions common;
    core::OptionSet options;
    common.declare(options);
    std::vector<bench::CaseSpec> specs;
    if (!asks_for_help(arguments)) {
        world.agree([&] { specs = cases_of_deck(deck_of(arguments)); });
    }
    for (bench::CaseSpec& spec : specs) {
        spec.declare(options, spec.name + ".");
    }
    if (!parse_options_only(world, "bench suite", options, arguments)) {
        return ExitCode::success;
    }
    for (bench::CaseSpec& spec : specs) {
        spec.parameters = parameters_of(options.settings(), spec.name + ".");
    }
    std::erase_if(specs, [&](const bench::CaseSpec& spec) {
        const bool left_out = world.size() < spec.kind->least_ranks;
        print(world,
              left_out ? fmt::format("-- {}: left out (it needs {} ranks)\n", spec.name, spec.kind->least_ranks) : "");
        return left_out;
    });
    world.agree([&] {
        core::require(
            !specs.empty(), ExitCode::usage,
            "nothing is left to measure (all benchmarks of the deck need more ranks than {}); start more with "
            "mpirun or srun",
            world.size());
    });
    bench::run_cases(world, specs, common, "bench suite", options.config_file().string());
    return ExitCode::success;
}

}  // namespace moesaic::app
