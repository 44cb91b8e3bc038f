// moesaic plan: the memory of a training run per rank, before anything is loaded.
#include "app/command.hpp"
#include "app/train_configuration.hpp"
#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "host/placement.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/place.hpp"
#include "train/batches.hpp"
#include "train/memory_plan.hpp"
#include "train/pass_size.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

namespace moesaic::app {
namespace {

using core::ExitCode;
using core::index_t;
using train::MemoryPlan;
using train::MemoryRequest;

std::string describe(const MemoryPlan& plan) {
    std::string text = fmt::format("{:<28} {:>12}\n", "per rank", "GiB");
    for (const MemoryPlan::Item& item : plan.items) {
        text += fmt::format("  {:<26} {:>12.3f}\n", item.purpose, item.bytes / core::gibibyte);
    }
    return text + fmt::format("  {:<26} {:>12.3f}\n", "all", plan.total() / core::gibibyte);
}

/// What each choice of train.activations keeps of a token for backward, in all layers.
std::string describe_choices(const model::Architecture& architecture, model::DecoderSettings settings,
                             MemoryRequest request) {
    constexpr index_t tokens = 1000;
    request.tokens = tokens * request.data_ranks * request.expert_ranks * request.tensor_ranks;
    std::string text = "kept for backward, KiB per token of a rank:";
    for (const ops::Activations choice : core::values_of<ops::Activations>()) {
        settings.activations = choice;
        const MemoryPlan plan = train::plan_memory(architecture, settings, request);
        text += fmt::format(" {:.1f} ({})", plan.of("activations") / (1024.0 * tokens), core::name_of(choice));
    }
    return text + "\n";
}

/// The machine to plan for; what is not given is that of this host.
struct PlannedHost {
    std::string memory;

    void declare(core::OptionSet& set, mpi::PlaceSettings& place) {
        place.declare_topology(set);
        set.add("memory", memory, "memory of the hosts to plan for: 512G, 1.5T");
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
    world.agree([&] { planned.apply(placement); });
    // The grid that the options ask for, whatever ranks run now: that of `world` where they leave it open.
    const mpi::GridShape grid = mpi::complete(configuration.grid, world.size(), placement.node_ranks);
    world.agree([&] {
        core::require(grid.ranks() <= mpi::most_ranks, ExitCode::usage,
                      "parallel.data x parallel.expert x parallel.tensor = {} x {} x {} are too many ranks (at most "
                      "{}); use fewer",
                      grid.data, grid.expert, grid.tensor, mpi::most_ranks);
    });
    const bool ranks_run =
        grid.ranks() == world.size();  // otherwise a tensor group fills a node, as it does by default
    const index_t node_ranks = ranks_run ? placement.node_ranks : grid.tensor;
    model::Architecture architecture;
    world.agree([&] {
        architecture = train::read_architecture(configuration.model, grid);
        train::fit_to_checkpoint(configuration.model, architecture);
    });
    std::optional<train::TrainingData> data;  // otherwise every sequence is taken to have data.max_length tokens
    if (!configuration.data.train.empty()) {
        data = train::load_training_data(world, configuration.data, architecture.vocabulary);
    }
    MemoryRequest request;
    request.data_ranks = grid.data;
    request.expert_ranks = grid.expert;
    request.tensor_ranks = grid.tensor;
    request.scalar_bytes = kernels::with_precision(configuration.compute.precision,
                                                   [](auto scalar) { return static_cast<index_t>(sizeof(scalar)); });
    request.threads = place.threads > 0 ? placement.threads
                                        : std::max<index_t>(placement.threads * placement.node_ranks / node_ranks, 1);
    // Whatever level the run will have: this machine, maybe that of a login, need not have it.
    const kernels::KernelSet kernels(
        kernels::ComputeSettings{.precision = configuration.compute.precision}.isa_level());
    request.packed_bytes = train::packed_bytes(kernels, request.scalar_bytes);
    world.agree([&] { configuration.settle_adapters(architecture); });
    train::print_warnings(world, {architecture.warning});
    train::print_warnings(world, configuration.decoder.lora.warnings);
    train::BatchSettings& batches = configuration.train.batches;
    const auto plan_with = [&](index_t micro_batch, ops::Activations activations) {
        batches.micro_batch = micro_batch;
        configuration.decoder.activations = activations;
        request.tokens = data ? train::largest_pass(*data, batches, grid.ranks())
                              : batches.per_pass(grid.ranks()) * configuration.data.max_length;
        return train::plan_memory(architecture, configuration.decoder_settings(request.tokens), request);
    };
    train::PassChoices choices = {batches.micro_batch, batches.most_of_rank(grid.ranks()),
                                  configuration.decoder.activations};
    choices.micro_batch = train::choose_micro_batch(plan_with, choices, [&](const MemoryPlan& candidate) {
        return world.min<std::int64_t>(candidate.total() <= train::memory_of_rank(placement, node_ranks) ? 1 : 0) == 1;
    });
    const std::string cheaper = train::cheaper_options(plan_with, choices);
    const MemoryPlan plan = plan_with(choices.micro_batch, choices.activations);
    const model::DecoderSettings settings = configuration.decoder_settings(request.tokens);
    const std::string pass =
        fmt::format("passes of {}, {}{}", core::counted(batches.per_pass(grid.ranks()), "sequence"),
                    core::counted(request.tokens, "token"), data ? " in the longest of " + data->train.name : "");
    print(world, fmt::format("{}: {}, {} of them with experts\n"
                             "adapted: {}\n"
                             "ranks {} = {}, {} each; {}, {}\n\n{}\n",
                             configuration.model.name(), core::counted(architecture.layers, "layer"),
                             architecture.moe_layers(), describe(model::adapted_modules(architecture, settings.lora)),
                             grid.ranks(), describe(grid), core::counted(request.threads, "thread"), pass,
                             core::name_of(settings.activations), describe(plan)));
    print(world, describe_choices(architecture, settings, request));
    world.agree(
        [&] { train::require_memory(placement, node_ranks, configuration.model.name(), plan.total(), cheaper); });
    print(world, fmt::format("fits: {:.1f} GiB per rank are available on {} with {} on it{}{}\n",
                             train::memory_of_rank(placement, node_ranks) / core::gibibyte, placement.host,
                             core::counted(node_ranks, "rank"),
                             ranks_run ? "" : " (a tensor group; start as many ranks as a node has to count them all)",
                             placement.memory_limit.empty() ? "" : "; " + placement.memory_limit));
    return ExitCode::success;
}

}  // namespace moesaic::app
