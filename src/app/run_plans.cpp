#include "app/run_plans.hpp"

#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/units.hpp"
#include "train/batches.hpp"
#include "train/what_fits.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesaic::app {
namespace {

using core::ExitCode;
using train::MemoryPlan;
using train::MemoryRequest;
using train::PassChoice;

/// "0.123", "12.3", "12345": no more digits than an estimate has, but never a power of ten.
std::string three_digits(double value) {
    return value < 1000 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

MemoryRequest memory_request(const kernels::ComputeSettings& compute, index_t threads, index_t host_ranks) {
    MemoryRequest request;
    request.host_ranks = host_ranks;
    request.scalar_bytes =
        kernels::with_precision(compute.precision, [](auto scalar) { return static_cast<index_t>(sizeof(scalar)); });
    request.threads = threads;
    // Whatever level the run will have: this machine, maybe that of a login, need not have it.
    const kernels::KernelSet kernels = kernels::ComputeSettings{.precision = compute.precision}.kernels();
    request.packed_bytes = train::packed_bytes(kernels, request.scalar_bytes);
    request.in_parts = kernels.operand_parts<core::bf16>() == 2;
    return request;
}

}  // namespace

PlannedRanks::PlannedRanks(const mpi::Communicator& world, const TrainConfiguration& configuration,
                           host::Placement placed)
    : grid(mpi::complete(configuration.grid, world.size(), placed.node_ranks)), placement(std::move(placed)) {
    core::require(grid.ranks() <= mpi::most_ranks, ExitCode::usage,
                  "parallel.data x parallel.expert x parallel.tensor = {} x {} x {} are too many ranks (at most "
                  "{}); use fewer",
                  grid.data, grid.expert, grid.tensor, mpi::most_ranks);
    run = grid.ranks() == world.size();
    of_node = run ? placement.node_ranks : grid.tensor;  // a tensor group fills a node, as it does by default
    threads = configuration.place.threads > 0
                  ? placement.threads
                  : std::max<index_t>(placement.threads * placement.node_ranks / of_node, 1);
}

PassSizes::PassSizes(const mpi::Communicator& world, const TrainConfiguration& configuration, index_t vocabulary)
    : length_(configuration.data.max_length) {
    if (!configuration.data.train.empty()) {
        data_ = train::load_training_data(world, configuration.data, vocabulary);
    }
}

train::PassSize PassSizes::most(const train::BatchSettings& batches, index_t ranks) {
    const index_t sequences = batches.per_pass(ranks);
    const auto [known, is_new] = tokens_.try_emplace({sequences, ranks}, sequences * length_);
    if (is_new && data_) {
        known->second = train::largest_pass(*data_, batches, ranks);
    }
    return {known->second, sequences};
}

RunPlans::RunPlans(const mpi::Communicator& world, const TrainConfiguration& configuration,
                   const model::Architecture& architecture, const PlannedRanks& ranks)
    : configuration_(configuration),
      ranks_(ranks),
      bytes_(static_cast<double>(world.min(static_cast<index_t>(ranks.memory())))),
      sizes_(world, configuration, architecture.vocabulary),
      planner_(architecture, configuration.decoder_settings(0),
               memory_request(configuration.compute, ranks.threads, world.min(ranks.of_node))),
      options_{.wanted = {batches().micro_batch, configuration.decoder.activations, configuration.model.weights,
                          ranks.grid, configuration.model.share},
               .batch_size = batches().batch_size,
               .experts = architecture.experts,
               .integers = configuration.model.uses_integers()},
      choice_(options_.wanted) {
    choice_.micro_batch = train::choose_micro_batch(in_passes(), options_, bytes_);
}

std::string RunPlans::describe_activations() {
    constexpr index_t tokens = 1000;
    std::string text = "kept for backward, KiB per token of a rank:";
    PassChoice choice = choice_;
    for (const ops::Activations activations : core::values_of<ops::Activations>()) {
        choice.activations = activations;
        const MemoryPlan plan = planner_.plan(choice, {tokens * choice.grid.ranks()});
        text += fmt::format(" {:.1f} ({})", plan.of("activations") / (1024.0 * tokens), core::name_of(activations));
    }
    return text + "\n";
}

std::string RunPlans::describe_what_fits() {
    const train::PlanOfPasses plan = [&](PassChoice choice) {
        choice.share = choice_.share;
        train::BatchSettings as_many = batches().with(choice.micro_batch);
        as_many.batch_size = choice.micro_batch * choice.grid.ranks();
        return planner_.plan(choice, sizes_.most(as_many, choice.grid.ranks()));
    };
    const auto table = train::what_fits(plan, train::grids_to_compare(ranks_.grid, options_.experts), bytes_);
    return fmt::format(
        "sequences of {} that fit in a pass of a rank with {:.1f} GiB, by weights and activations:\n"
        "{}replicas of these ranks (parallel.data) hold the same\n",
        data() ? "the data" : core::counted(configuration_.data.max_length, "token"), bytes_ / core::gibibyte,
        train::describe(table));
}

std::string RunPlans::describe_steps(const model::Architecture& architecture,
                                     const std::optional<bench::StepSpeed>& speed) const {
    const train::TrainSettings& train = configuration_.train;
    const index_t epoch = data() ? data()->train.epoch_size() : 0;
    const double length = data() ? static_cast<double>(data()->train.largest_sum(epoch)) / static_cast<double>(epoch)
                                 : static_cast<double>(configuration_.data.max_length);
    const index_t sequences = data() ? std::min(train.batches.batch_size, epoch) : train.batches.batch_size;
    const index_t of_rank = options_.most_of_rank(ranks_.grid.ranks());
    const index_t in_pass = choice_.micro_batch > 0 ? choice_.micro_batch : of_rank;
    const index_t passes = (of_rank + in_pass - 1) / in_pass;
    const double tokens = static_cast<double>(sequences) * length;
    const index_t steps = data() ? train.total_steps(epoch) : train.steps;  // 0: not known
    std::string text = fmt::format("steps: {}, each of {} in {}, {:.0f} tokens\n",
                                   steps > 0 ? fmt::format("{}", steps) : "as many as data.train and train.epochs make",
                                   core::counted(sequences, "sequence"),
                                   passes == 1 ? "one pass" : fmt::format("{} passes", passes), tokens);
    if (!speed) {
        return text + "time: not estimated for FP32, which is for comparison\n";
    }
    const double seconds = bench::step_seconds(architecture,
                                               {.grid = ranks_.grid,
                                                .threads = ranks_.threads,
                                                .activations = choice_.activations,
                                                .passes = passes,
                                                .tokens_of_pass = tokens / static_cast<double>(passes),
                                                .sequence_length = length},
                                               *speed);
    const measure::MachineLimits limits = speed->limits_of(ranks_.threads);
    text += fmt::format(
        "time, an estimate: {} s per step, {} tokens/s{}\n", three_digits(seconds), three_digits(tokens / seconds),
        steps > 0 ? fmt::format(", {} hours", three_digits(static_cast<double>(steps) * seconds / 3600)) : "");
    return text + fmt::format("  at {:.0f} % of the {} GFLOP/s and {} GB/s of a rank ({}){}{}\n",
                              100 * speed->efficiency, three_digits(limits.peak_flops * 1e-9),
                              three_digits(limits.bytes_per_second * 1e-9), speed->source,
                              ranks_.grid.ranks() > 1 ? ", without messages between ranks" : "",
                              configuration_.model.uses_integers() ? ", as if experts multiplied BF16" : "");
}

}  // namespace moesaic::app
