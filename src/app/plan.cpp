// moesaic plan: the memory of a training run per rank, before anything is loaded.
#include "app/command.hpp"
#include "app/train_configuration.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "host/placement.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/place.hpp"
#include "train/memory_plan.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>

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

}  // namespace

ExitCode run_plan(const mpi::Communicator& world, Arguments arguments) {
    TrainConfiguration configuration;
    if (!parse_options_only(world, "plan", configuration.options, arguments)) {
        return ExitCode::success;
    }
    const host::Placement placement = mpi::place(world);
    // The grid that the options ask for, whatever ranks run now: that of `world` where they leave it open.
    const mpi::GridShape grid = mpi::complete(configuration.grid, world.size(), placement.node_ranks);
    world.agree([&] {
        core::require(grid.ranks() <= mpi::most_ranks, ExitCode::usage,
                      "parallel.data x parallel.expert x parallel.tensor = {} x {} x {} are too many ranks (at most "
                      "{}); use fewer",
                      grid.data, grid.expert, grid.tensor, mpi::most_ranks);
    });
    MemoryRequest request;
    request.data_ranks = grid.data;
    request.expert_ranks = grid.expert;
    request.tensor_ranks = grid.tensor;
    const index_t sequences = configuration.train.batches.per_pass(grid.ranks());
    request.tokens = sequences * configuration.data.max_length;
    request.scalar_bytes = kernels::with_precision(configuration.compute.precision,
                                                   [](auto scalar) { return static_cast<index_t>(sizeof(scalar)); });
    request.threads = placement.threads;
    // Whatever level the run will have: this machine, maybe that of a login, need not have it.
    const kernels::KernelSet kernels(
        kernels::ComputeSettings{.precision = configuration.compute.precision}.isa_level());
    request.packed_bytes = train::packed_bytes(kernels, request.scalar_bytes);
    model::Architecture architecture;
    model::DecoderSettings settings;
    world.agree([&] {
        architecture = train::read_architecture(configuration.model, grid);
        train::fit_to_checkpoint(configuration.model, architecture);
        configuration.settle_adapters(architecture);
        settings = configuration.decoder_settings(request.tokens);
    });
    train::print_warnings(world, {architecture.warning, settings.lora.warning});
    const MemoryPlan plan = train::plan_memory(architecture, settings, request);
    print(world,
          fmt::format("{}: {} layers, {} of them with experts\n"
                      "adapted: {}\n"
                      "ranks {} = {}; {} sequences of up to {} tokens in a pass, {}\n\n{}\n",
                      configuration.model.name(), architecture.layers, architecture.moe_layers(),
                      describe(model::adapted_modules(architecture, settings.lora)), grid.ranks(), describe(grid),
                      sequences, configuration.data.max_length, core::name_of(settings.activations), describe(plan)));
    print(world, describe_choices(architecture, settings, request));
    const bool ranks_run =
        grid.ranks() == world.size();  // otherwise a tensor group fills a node, as it does by default
    const index_t node_ranks = ranks_run ? placement.node_ranks : grid.tensor;
    world.agree([&] { train::require_memory(placement, node_ranks, configuration.model.name(), plan.total()); });
    print(world, fmt::format("fits: {:.1f} GiB per rank are available on {} with {} ranks on it{}\n",
                             train::memory_of_rank(placement, node_ranks) / core::gibibyte, placement.host, node_ranks,
                             ranks_run ? "" : " (a tensor group; start so many ranks to count those of a node)"));
    return ExitCode::success;
}

}  // namespace moesaic::app
