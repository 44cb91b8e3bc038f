// moesaic plan: the memory of a training run per rank, before anything is loaded.
#include "app/command.hpp"
#include "app/train_configuration.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "host/placement.hpp"
#include "mpi/place.hpp"
#include "train/adapter_store.hpp"
#include "train/batches.hpp"
#include "train/memory_plan.hpp"
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
        set.add("memory", memory, "plan for hosts with so much memory: 512G, 1.5T");
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

/// Tokens of a pass of all ranks, and where the number comes from.
struct PassSize {
    index_t tokens = 0;
    std::string description;
};

/// Collective. As `train` counts them if the data are there, otherwise as many as data.max_length allows.
PassSize size_of_pass(const mpi::Communicator& world, const TrainConfiguration& configuration, index_t vocabulary,
                      index_t ranks) {
    const train::DataSettings& data = configuration.data;
    const train::BatchSettings& batches = configuration.train.batches;
    const index_t sequences = batches.per_pass(ranks);
    if (data.train.empty()) {
        return {sequences * data.max_length,
                fmt::format("{} sequences of up to {} tokens in a pass", sequences, data.max_length)};
    }
    const train::Dataset training = train::load_dataset(world, data.train, vocabulary, data.max_length);
    std::optional<train::Dataset> evaluation;
    if (!data.eval.empty()) {
        evaluation = train::load_dataset(world, data.eval, vocabulary, data.max_length);
    }
    const index_t tokens = train::largest_pass(training, evaluation ? &*evaluation : nullptr, batches, ranks);
    return {tokens,
            fmt::format("{} sequences in a pass, {} tokens in the longest of {}", sequences, tokens, data.train)};
}

}  // namespace

ExitCode run_plan(const mpi::Communicator& world, Arguments arguments) {
    PlannedHost planned;
    mpi::PlaceSettings place;
    TrainConfiguration configuration([&](core::OptionSet& set) { planned.declare(set, place); });
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
        architecture.stored = train::stored_formats(configuration.model, architecture);
    });
    const PassSize pass = size_of_pass(world, configuration, architecture.vocabulary, grid.ranks());
    MemoryRequest request;
    request.data_ranks = grid.data;
    request.expert_ranks = grid.expert;
    request.tensor_ranks = grid.tensor;
    request.tokens = pass.tokens;
    request.scalar_bytes = kernels::with_precision(configuration.compute.precision,
                                                   [](auto scalar) { return static_cast<index_t>(sizeof(scalar)); });
    request.threads = place.threads > 0 ? placement.threads
                                        : std::max<index_t>(placement.threads * placement.node_ranks / node_ranks, 1);
    // Whatever level the run will have: this machine, maybe that of a login, need not have it.
    const kernels::KernelSet kernels(
        kernels::ComputeSettings{.precision = configuration.compute.precision}.isa_level());
    request.packed_bytes = train::packed_bytes(kernels, request.scalar_bytes);
    model::DecoderSettings settings;
    world.agree([&] {
        settings = configuration.decoder_settings(
            train::settings_to_start_from(configuration.init, architecture, configuration.decoder.lora),
            request.tokens);
    });
    const MemoryPlan plan = train::plan_memory(architecture, settings, request);
    print(world, fmt::format("{}: {} layers, {} of them with experts\n"
                             "ranks {} = {}, {} threads each; {}, {}\n\n{}\n",
                             configuration.model.name(), architecture.layers, architecture.moe_layers(), grid.ranks(),
                             describe(grid), request.threads, pass.description, core::name_of(settings.activations),
                             describe(plan)));
    print(world, describe_choices(architecture, settings, request));
    world.agree([&] { train::require_memory(placement, node_ranks, configuration.model.name(), plan.total()); });
    print(world, fmt::format("fits: {:.1f} GiB per rank are available on {} with {} ranks on it{}{}\n",
                             train::memory_of_rank(placement, node_ranks) / core::gibibyte, placement.host, node_ranks,
                             ranks_run ? "" : " (a tensor group; start so many ranks to count those of a node)",
                             placement.memory_limit.empty() ? "" : "; " + placement.memory_limit));
    return ExitCode::success;
}

}  // namespace moesaic::app
