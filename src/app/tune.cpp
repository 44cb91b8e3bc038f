// moesaic tune: tries how a model trains fastest on these ranks, and writes what was found as a configuration file.
#include "bench/tune.hpp"
#include "app/command.hpp"
#include "app/progress.hpp"
#include "app/train_configuration.hpp"
#include "core/counted.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "io/files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace moesaic::app {
namespace {

using core::ExitCode;

struct TuneConfiguration {
    std::string file = "tuned.cfg";
    bench::TuneLimits limits;
    TrainConfiguration run;

    TuneConfiguration()
        : run([this](core::OptionSet& set) {
              set.add_path("write", file, "configuration file for the best choice, for moesaic train");
              set.add("tries", limits.most_tried, "most choices that are measured", core::at_least(1));
              set.add("steps", limits.steps, "steps of each, after one to warm up", core::at_least(1));
              set.add_auto("layers", limits.layers, 1 << 20U,
                           "layers that are measured; auto: up to the second one with experts");
          }) {}
};

/// Collective. Steps like those of the run: as many sequences, as long as they are on average.
bench::StepWorkload workload_of(const mpi::Communicator& world, TrainConfiguration& run) {
    model::Architecture architecture;
    world.agree([&] {
        core::require(run.compute.precision != kernels::Precision::fp32, ExitCode::usage,
                      "compute.precision = fp32 is for comparison (its speed is nobody's concern); leave it out");
        architecture = train::read_architecture(run.model, run.grid, run.compute.precision);
        run.settle_adapters(architecture);
    });
    bench::StepWorkload workload = {.model = run.model,
                                    .decoder = run.decoder_settings(0),
                                    .batches = run.train.batches,
                                    .length = run.data.max_length};
    if (!run.data.train.empty()) {
        const train::TrainingData data = train::load_training_data(world, run.data, architecture.vocabulary);
        workload.length = std::max<index_t>(std::lround(data.train.mean_length()), 2);
        workload.batches.batch_size = std::min(workload.batches.batch_size, data.train.epoch_size());
    }
    return workload;
}

/// Collective, of one rank. Commands with the ranks and threads that are predicted to be fastest on this host.
std::string describe_launches(const train::Ranks& one, const TrainConfiguration& run,
                              const bench::StepWorkload& workload) {
    const bench::StepPlans plans(one, run.grid, workload);
    const train::MachineRates rates = train::rates_of(one);
    struct Launch {
        index_t ranks;
        index_t threads;
        train::GridOption best;
    };
    std::vector<Launch> launches;
    const index_t cores = one.placement.threads;
    for (index_t ranks = 1; ranks <= cores; ++ranks) {
        if (cores % ranks == 0 && ranks % run.grid.least_ranks() == 0) {
            train::GridQuestion question = plans.question();
            question.steps.host_ranks = ranks;
            question.steps.threads = cores / ranks;
            const auto options =
                train::compare_grids(question, train::grids_for(question, ranks), rates.with_threads(cores / ranks),
                                     train::memory_of_rank(one.placement, ranks));
            launches.push_back({ranks, cores / ranks, options.front()});
        }
    }
    std::stable_sort(launches.begin(), launches.end(), [](const Launch& a, const Launch& b) {
        const auto place_of = [](const Launch& launch) {
            return std::pair(!launch.best.fits, launch.best.cost.total());
        };
        return place_of(a) < place_of(b);
    });
    std::string text = fmt::format("predicted for {} of this host, the fastest first\n  {:>10} {:<36} {:>12}\n",
                                   core::counted(cores, "thread"), "s per step", "grid", "GiB per rank");
    for (const Launch& launch : launches) {
        text +=
            fmt::format("  {:>10} {:<36} {:>12.2f}{}\n    moesaic-run -n {} tune {} --parallel.threads {}\n",
                        core::three_digits(launch.best.cost.total()), describe(launch.best.grid()),
                        launch.best.bytes / core::gibibyte, launch.best.fits ? "" : " (does not fit)", launch.ranks,
                        run.options.config_file().empty() ? "..." : run.options.config_file().string(), launch.threads);
    }
    return text;
}

std::string table_of(const std::vector<bench::Tried>& tried) {
    std::string text = fmt::format("{:>12} {:>12}  {}\n", "measured, s", "predicted, s", "choice");
    for (const bench::Tried& each : tried) {
        text += fmt::format("{:>12} {:>12}  {}\n",
                            each.seconds ? core::three_digits(*each.seconds) : std::string("no memory"),
                            core::three_digits(each.predicted), describe(each.choice));
    }
    return text;
}

/// What the user set, and what was found.
std::string configuration_with(const bench::TuneChoice& choice, TuneConfiguration& configuration) {
    TrainConfiguration& run = configuration.run;
    run.grid = {choice.grid.data, choice.grid.expert, choice.grid.tensor};
    run.decoder.chunks = choice.chunks;
    run.decoder.activations = choice.activations;
    run.train.batches.micro_batch = choice.micro_batch;
    const std::set<std::string> found = {"parallel.data",   "parallel.expert",   "parallel.tensor",
                                         "parallel.chunks", "train.micro_batch", "train.activations"};
    std::vector<core::OptionSet::Setting> settings = run.options.settings();
    std::erase_if(settings, [&](const core::OptionSet::Setting& setting) {
        const bool has_section = setting.key.find('.') != std::string::npos;
        return !has_section || !(found.contains(setting.key) || run.options.was_set(setting.key));
    });
    return core::OptionSet::to_config(settings);
}

}  // namespace

ExitCode run_tune(const mpi::Communicator& world, Arguments arguments) {
    TuneConfiguration configuration;
    TrainConfiguration& run = configuration.run;
    run.options.need({"model.path", "model.synthetic"});
    if (!parse_options_only(world, "tune", run.options, arguments)) {
        return ExitCode::success;
    }
    world.agree([&] {
        if (world.is_root()) {
            io::require_writable(configuration.file);
        }
    });
    const train::Ranks ranks(world, run.place, run.compute);
    const bench::StepWorkload workload = workload_of(world, run);
    if (world.size() == 1) {
        print(world, describe_launches(ranks, run, workload));
        return ExitCode::success;
    }
    Progress progress(world.is_root());
    const std::vector<bench::Tried> tried =
        bench::tune(ranks, run.grid, workload, configuration.limits,
                    [&](const bench::TuneChoice& choice) { progress.show("measuring " + describe(choice)); });
    world.agree([&] {
        core::require(!tried.empty() && tried.front().seconds.has_value(), ExitCode::out_of_resources,
                      "no choice that was tried fits into memory; see moesaic plan for what would");
        if (world.is_root()) {
            io::write_file_atomically(configuration.file, configuration_with(tried.front().choice, configuration));
        }
    });
    progress.say(table_of(tried));
    progress.say(
        fmt::format("the best one is in {}: moesaic train --config {}", configuration.file, configuration.file));
    return ExitCode::success;
}

}  // namespace moesaic::app
