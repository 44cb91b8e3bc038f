// moesaic plan: memory and time of a training run, before anything is loaded.
#include "app/command.hpp"
#include "app/run_plans.hpp"
#include "app/train_configuration.hpp"
#include "bench/recorded_rates.hpp"
#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "host/placement.hpp"
#include "measure/results.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/place.hpp"
#include "train/machine_probe.hpp"
#include "train/memory_plan.hpp"
#include "train/pass_size.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <vector>

namespace moesaic::app {
namespace {

using core::ExitCode;
using train::MemoryPlan;

std::string describe(const MemoryPlan& plan) {
    std::string text = fmt::format("{:<28} {:>12}\n", "per rank", "GiB");
    const auto add = [&](const std::string& name, double bytes) {
        text += fmt::format("  {:<26} {:>12.3f}\n", name, bytes / core::gibibyte);
    };
    for (const MemoryPlan::Item& item : plan.items) {
        if (item.bytes > 0) {
            add(item.name(), item.bytes);
        }
    }
    add("all", plan.total());
    if (plan.shared > 0) {
        text += fmt::format("attention, dense, embedding and head: {:.3f} GiB, shared by the ranks of a host\n",
                            plan.shared / core::gibibyte);
    }
    return text;
}

/// The machine to plan for; what is not given is that of this host.
struct PlannedHost {
    std::string memory;
    std::string benchmark;  ///< file with its speed
    WantedRanks ranks;

    void declare(core::OptionSet& set, mpi::PlaceSettings& place) {
        place.declare_topology(set);
        set.add_auto("ranks", ranks.all, mpi::most_ranks,
                     "ranks to plan for; auto: those that run, or the fewest that the sizes of the grid need");
        set.add_auto("host-ranks", ranks.of_host, mpi::most_ranks,
                     "how many of them share a host, if they do not run; auto: a tensor group if its size is set, "
                     "otherwise all that --ranks asks for");
        set.add("memory", memory, "memory of the hosts to plan for: 512G, 1.5T");
        set.add_path("benchmark", benchmark,
                     "result of bench machine, suite or step, for the time of a step; otherwise this machine is "
                     "measured");
    }
    [[nodiscard]] bool is_other(const mpi::PlaceSettings& place) const {
        return !memory.empty() || !place.topology.empty();
    }
    /// Puts the memory that was asked for in the place of what this host has.
    void apply(host::Placement& placement) const {
        if (memory.empty()) {
            return;
        }
        const auto bytes = core::parse_size(memory);
        core::require(bytes && *bytes > 0, ExitCode::usage,
                      "memory = {} is no size (a number with K, M, G or T for powers of 1024); write for example "
                      "--memory 512G",
                      memory);
        placement.memory_bytes = placement.memory_available_bytes = static_cast<std::uint64_t>(*bytes);
        placement.process_memory_bytes = std::numeric_limits<std::uint64_t>::max();
        placement.memory_limit.clear();
        placement.host = fmt::format("a host with {:.1f} GiB", static_cast<double>(*bytes) / core::gibibyte);
    }
};

/// Collective.
train::MachineRates rates_of(const mpi::Communicator& world, const TrainConfiguration& configuration,
                             const PlannedHost& planned, const mpi::PlaceSettings& place) {
    if (configuration.compute.precision == kernels::Precision::fp32) {
        return train::usual_rates(kernels::Isa::portable, 1);
    }
    if (!planned.benchmark.empty()) {
        std::optional<train::MachineRates> rates;
        world.agree(
            [&] { rates = bench::recorded_rates(measure::read_results(planned.benchmark), planned.benchmark); });
        return *rates;
    }
    return train::rates_of(train::Ranks(world, {.threads = place.threads}, {}, /*announces=*/false));
}

}  // namespace

ExitCode run_plan(const mpi::Communicator& world, Arguments arguments) {
    PlannedHost planned;
    mpi::PlaceSettings place;
    TrainConfiguration configuration([&](core::OptionSet& set) { planned.declare(set, place); });
    configuration.options.need({"model.path", "model.synthetic"});
    if (!parse_options_only(world, "plan", configuration.options, arguments)) {
        return ExitCode::success;
    }
    place.threads = configuration.place.threads;
    host::Placement placement = mpi::place(world, place);
    std::optional<PlannedRanks> ranks;
    model::Architecture architecture;
    world.agree([&] {
        planned.apply(placement);
        ranks.emplace(world, planned.ranks, configuration, placement);
        architecture =
            train::read_architecture(configuration.model, configuration.grid, configuration.compute.precision);
        train::fit_to_checkpoint(configuration.model, architecture);
        configuration.settle_adapters(architecture);
    });
    train::print_warnings(world, {architecture.warning});
    train::print_warnings(world, configuration.decoder.lora.warnings);
    RunPlans plans(world, configuration, architecture, *ranks);
    std::optional<train::MachineRates> rates;
    if (plans.grids().size() > 1) {
        rates = rates_of(world, configuration, planned, place);
        plans.choose_grid(*rates);
        print(world, fmt::format("grids of {}, the best one first\n{}\n", core::counted(ranks->count, "rank"),
                                 train::table_of(plans.options())));
    }
    const MemoryPlan plan = plans.plan();
    const train::PassSize size = plans.pass();
    const std::string pass = fmt::format("passes of {}, {}{}", core::counted(size.sequences, "sequence"),
                                         core::counted(size.tokens, "token"),
                                         plans.data() ? " in the longest of " + plans.data()->train.name : "");
    print(world, fmt::format("{}: {}, {} of them with experts\n"
                             "adapted: {}\n"
                             "a rank holds {} of the parameters, and {} of adapters\n"
                             "ranks {} = {}, {} each; {}, {}\n\n{}\n{}\n{}\n",
                             configuration.model.name(), core::counted(architecture.layers, "layer"),
                             architecture.moe_layers(),
                             describe(model::adapted_modules(architecture, configuration.decoder.lora)),
                             core::short_count(plan.parameters), core::short_count(plan.adapter_parameters),
                             ranks->count, describe(plans.choice().grid), core::counted(ranks->threads, "thread"), pass,
                             core::name_of(plans.choice().activations), describe(plan), plans.describe_activations(),
                             plans.describe_what_fits()));
    const index_t node_ranks = ranks->of_node;
    std::string advice;
    if (plan.total() > plans.bytes()) {
        const std::vector<train::Suggestion> suggestions = plans.suggestions();
        for (const train::Suggestion& suggestion : suggestions) {
            print(world, fmt::format("would fit: {}\n", suggestion.describe(node_ranks)));
        }
        advice = train::advice(suggestions, node_ranks);
    }
    world.agree(
        [&] { train::require_memory(placement, node_ranks, configuration.model.name(), plan.total(), advice); });
    print(world, fmt::format("fits: {:.1f} GiB per rank are available on {} with {} on it{}{}\n",
                             ranks->memory() / core::gibibyte, placement.host, core::counted(node_ranks, "rank"),
                             ranks->run ? "" : " (a tensor group; start as many ranks as a node has to count them all)",
                             placement.memory_limit.empty() ? "" : "; " + placement.memory_limit));
    const bool is_estimated = configuration.compute.precision != kernels::Precision::fp32;
    if (!rates && is_estimated) {
        rates = rates_of(world, configuration, planned, place);
    }
    print(world, plans.describe_steps(is_estimated ? rates : std::nullopt));
    if (planned.is_other(place) && planned.benchmark.empty()) {
        print(world, "  the time is that of this machine, not of the one that is planned for\n");
    }
    return ExitCode::success;
}

}  // namespace moesaic::app
