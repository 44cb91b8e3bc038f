#include "app/run_plans.hpp"

#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
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

PlannedRanks::PlannedRanks(const mpi::Communicator& world, const WantedRanks& wanted,
                           const TrainConfiguration& configuration, host::Placement placed)
    : placement(std::move(placed)) {
    const mpi::GridSettings& grid = configuration.grid;
    const index_t least = grid.least_ranks();
    count = wanted.all > 0 ? wanted.all : world.size() % least == 0 ? world.size() : least;
    core::require(count <= mpi::most_ranks, ExitCode::usage,
                  "{} are too many ranks to plan for (at most {}); use fewer", count, mpi::most_ranks);
    run = count == world.size();
    of_node = run                  ? placement.node_ranks
              : wanted.of_host > 0 ? wanted.of_host
              : grid.tensor > 0    ? grid.tensor  // a tensor group fills a host
              : wanted.all > 0     ? count
                                   : 1;
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
      architecture_(architecture),
      ranks_(ranks),
      bytes_(static_cast<double>(world.min(static_cast<index_t>(ranks.memory())))),
      sizes_(world, configuration, architecture.vocabulary),
      planner_(architecture, configuration.decoder_settings(0),
               memory_request(configuration.compute, ranks.threads, world.min(ranks.of_node))),
      plan_([this](const PassChoice& choice) {
          return planner_.plan(choice, sizes_.most(batches().with(choice.micro_batch), choice.grid.ranks()));
      }),
      options_{.wanted = {batches().micro_batch,
                          configuration.decoder.activations,
                          configuration.model.weights,
                          {},
                          configuration.model.share},
               .batch_size = batches().batch_size,
               .experts = architecture.experts,
               .integers = configuration.model.uses_integers()} {
    world.agree([&] { grids_ = train::grids_for(question(), ranks.count); });
    take(grids_.front());
}

train::GridQuestion RunPlans::question() const {
    const index_t epoch = data() ? data()->train.epoch_size() : batches().batch_size;
    return {.wanted = configuration_.model.settle(configuration_.grid),
            .architecture = architecture_,
            .lora = configuration_.decoder.lora,
            .steps = {.host_ranks = ranks_.of_node,
                      .threads = ranks_.threads,
                      .activations = configuration_.decoder.activations,
                      .batch_size = std::min(batches().batch_size, epoch),
                      .sequence_length =
                          data() ? data()->train.mean_length() : static_cast<double>(configuration_.data.max_length),
                      .chunks = configuration_.decoder.chunks},
            .plan = plan_,
            .options = options_};
}

void RunPlans::take(const mpi::GridShape& grid) {
    options_.wanted.grid = grid;
    choice_ = options_.wanted;
    choice_.micro_batch = train::choose_micro_batch(plan_, options_, bytes_);
}

void RunPlans::choose_grid(const train::MachineRates& rates) {
    compared_ = train::compare_grids(question(), grids_, rates.with_threads(ranks_.threads), bytes_);
    take(compared_.front().grid());
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
    const auto table = train::what_fits(plan, train::grids_to_compare(choice_.grid, options_.experts), bytes_);
    return fmt::format(
        "sequences of {} that fit in a pass of a rank with {:.1f} GiB, by weights and activations:\n"
        "{}replicas of these ranks (parallel.data) hold the same\n",
        data() ? "the data" : core::counted(configuration_.data.max_length, "token"), bytes_ / core::gibibyte,
        train::describe(table));
}

std::string RunPlans::describe_steps(const std::optional<train::MachineRates>& rates) const {
    const train::TrainSettings& train = configuration_.train;
    train::StepsToCome to_come = question().steps;
    to_come.grid = choice_.grid;
    to_come.micro_batch = choice_.micro_batch;
    const double tokens = static_cast<double>(to_come.batch_size) * to_come.sequence_length;
    const index_t passes = to_come.passes();
    const index_t steps = data() ? train.total_steps(data()->train.epoch_size()) : train.steps;  // 0: not known
    std::string text = fmt::format("steps: {}, each of {} in {}, {:.0f} tokens\n",
                                   steps > 0 ? fmt::format("{}", steps) : "as many as data.train and train.epochs make",
                                   core::counted(to_come.batch_size, "sequence"),
                                   passes == 1 ? "one pass" : fmt::format("{} passes", passes), tokens);
    if (!rates) {
        return text + "time: not estimated for FP32, which is for comparison\n";
    }
    const train::MachineRates of_rank = rates->with_threads(ranks_.threads);
    const train::StepCost cost = train::CostModel(architecture_, configuration_.decoder.lora).of(to_come, of_rank);
    const double seconds = cost.total();
    text += fmt::format(
        "time, an estimate: {} s per step, {} tokens/s{}\n", core::three_digits(seconds),
        core::three_digits(tokens / seconds),
        steps > 0 ? fmt::format(", {} hours", core::three_digits(static_cast<double>(steps) * seconds / 3600)) : "");
    return text + fmt::format(
                      "  experts {:.0f} %, other work {:.0f} %, exchange {:.0f} %, reduction {:.0f} %\n"
                      "  at {} GFLOP/s and {} GB/s of a rank ({}){}\n",
                      100 * cost.experts / seconds, 100 * cost.other / seconds, 100 * cost.exchange / seconds,
                      100 * cost.reduction / seconds, core::three_digits(of_rank.limits.peak_flops * 1e-9),
                      core::three_digits(of_rank.limits.bytes_per_second * 1e-9), of_rank.source,
                      configuration_.model.uses_integers() ? ", as if experts multiplied BF16" : "");
}

}  // namespace moesaic::app
