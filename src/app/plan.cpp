// moesaic plan: memory and time of a training run, before anything is loaded.
#include "app/command.hpp"
#include "app/train_configuration.hpp"
#include "bench/step_time.hpp"
#include "core/counted.hpp"
#include "core/enumeration.hpp"
#include "core/error.hpp"
#include "core/text.hpp"
#include "core/units.hpp"
#include "host/placement.hpp"
#include "measure/results.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/place.hpp"
#include "train/batches.hpp"
#include "train/memory_plan.hpp"
#include "train/pass_size.hpp"
#include "train/runtime.hpp"
#include "train/what_fits.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace moesaic::app {
namespace {

using core::ExitCode;
using core::index_t;
using train::MemoryPlan;
using train::MemoryRequest;
using train::PassChoice;

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
    return text;
}

/// "0.123", "12.3", "12345": no more digits than an estimate has, but never a power of ten.
std::string three_digits(double value) {
    return value < 1000 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

/// The machine to plan for; what is not given is that of this host.
struct PlannedHost {
    std::string memory;
    std::string benchmark;  ///< file with its speed

    void declare(core::OptionSet& set, mpi::PlaceSettings& place) {
        place.declare_topology(set);
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

/// The ranks that are planned for, whether they run or not.
struct PlannedRanks {
    mpi::GridShape grid;
    host::Placement placement;  ///< of a rank that runs
    bool run = false;           ///< as many as are planned
    index_t of_node = 1;
    index_t threads = 1;  ///< of each

    /// The grid that the options ask for; that of `world` where they leave it open.
    PlannedRanks(const mpi::Communicator& world, const TrainConfiguration& configuration, host::Placement placed)
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
    /// Bytes that a rank may use.
    [[nodiscard]] double memory() const { return train::memory_of_rank(placement, of_node); }
};

/// Tokens of passes. Without data every sequence is taken to have data.max_length tokens.
class PassTokens {
public:
    PassTokens(const mpi::Communicator& world, const TrainConfiguration& configuration, index_t vocabulary)
        : length_(configuration.data.max_length) {
        if (!configuration.data.train.empty()) {
            data_ = train::load_training_data(world, configuration.data, vocabulary);
        }
    }
    /// The most that so many ranks can meet in a pass.
    [[nodiscard]] index_t most(const train::BatchSettings& batches, index_t ranks) {
        const index_t sequences = batches.per_pass(ranks);
        const auto [known, is_new] = of_sequences_.try_emplace({sequences, ranks}, sequences * length_);
        if (is_new && data_) {
            known->second = train::largest_pass(*data_, batches, ranks);
        }
        return known->second;
    }
    [[nodiscard]] const std::optional<train::TrainingData>& data() const noexcept { return data_; }

private:
    std::optional<train::TrainingData> data_;
    index_t length_;
    std::map<std::pair<index_t, index_t>, index_t> of_sequences_;
};

MemoryRequest memory_request(const kernels::ComputeSettings& compute, index_t threads) {
    MemoryRequest request;
    request.scalar_bytes =
        kernels::with_precision(compute.precision, [](auto scalar) { return static_cast<index_t>(sizeof(scalar)); });
    request.threads = threads;
    // Whatever level the run will have: this machine, maybe that of a login, need not have it.
    const kernels::KernelSet kernels(kernels::ComputeSettings{.precision = compute.precision}.isa_level());
    request.packed_bytes = train::packed_bytes(kernels, request.scalar_bytes);
    return request;
}

/// Plans of a training run: the one that it will have, and others.
class RunPlans {
public:
    RunPlans(const mpi::Communicator& world, const TrainConfiguration& configuration,
             const model::Architecture& architecture, const PlannedRanks& ranks)
        : configuration_(configuration),
          ranks_(ranks),
          bytes_(static_cast<double>(world.min(static_cast<index_t>(ranks.memory())))),
          tokens_(world, configuration, architecture.vocabulary),
          planner_(architecture, configuration.decoder_settings(0),
                   memory_request(configuration.compute, ranks.threads)),
          options_{.wanted = {batches().micro_batch, configuration.decoder.activations, configuration.model.weights,
                              ranks.grid},
                   .batch_size = batches().batch_size,
                   .experts = architecture.experts},
          choice_(options_.wanted) {
        choice_.micro_batch = train::choose_micro_batch(in_passes(), options_, bytes_);
    }

    [[nodiscard]] const PassChoice& choice() const noexcept { return choice_; }
    [[nodiscard]] MemoryPlan plan() { return in_passes()(choice_); }
    [[nodiscard]] index_t tokens() { return tokens_.most(batches().with(choice_.micro_batch), ranks_.grid.ranks()); }
    [[nodiscard]] index_t sequences() const {
        return batches().with(choice_.micro_batch).per_pass(ranks_.grid.ranks());
    }
    [[nodiscard]] const std::optional<train::TrainingData>& data() const noexcept { return tokens_.data(); }
    [[nodiscard]] std::vector<train::Suggestion> suggestions() { return suggest(in_passes(), options_, bytes_); }

    [[nodiscard]] double bytes() const noexcept { return bytes_; }

    /// Steps of the run and, as they are on a machine of this speed, their time.
    [[nodiscard]] std::string describe_steps(const model::Architecture& architecture,
                                             const std::optional<bench::StepSpeed>& speed) const;
    /// What each choice of train.activations keeps of a token for backward, in all layers.
    [[nodiscard]] std::string describe_activations();
    /// What fits on other ranks and in other formats.
    [[nodiscard]] std::string describe_what_fits();

private:
    [[nodiscard]] const train::BatchSettings& batches() const noexcept { return configuration_.train.batches; }
    [[nodiscard]] train::PlanOfPasses in_passes() {
        return [this](const PassChoice& choice) {
            return planner_.plan(choice, tokens_.most(batches().with(choice.micro_batch), choice.grid.ranks()));
        };
    }

    const TrainConfiguration& configuration_;
    const PlannedRanks& ranks_;
    double bytes_;  ///< that a rank may use
    PassTokens tokens_;
    train::PassPlanner planner_;
    train::PassOptions options_;
    PassChoice choice_;
};

std::string RunPlans::describe_activations() {
    constexpr index_t tokens = 1000;
    std::string text = "kept for backward, KiB per token of a rank:";
    PassChoice choice = choice_;
    for (const ops::Activations activations : core::values_of<ops::Activations>()) {
        choice.activations = activations;
        const MemoryPlan plan = planner_.plan(choice, tokens * choice.grid.ranks());
        text += fmt::format(" {:.1f} ({})", plan.of("activations") / (1024.0 * tokens), core::name_of(activations));
    }
    return text + "\n";
}

std::string RunPlans::describe_what_fits() {
    const train::PlanOfPasses plan = [&](const PassChoice& choice) {
        train::BatchSettings as_many = batches().with(choice.micro_batch);
        as_many.batch_size = choice.micro_batch * choice.grid.ranks();
        return planner_.plan(choice, tokens_.most(as_many, choice.grid.ranks()));
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
    return text + fmt::format("  at {:.0f} % of the {} GFLOP/s and {} GB/s of a rank ({}){}\n", 100 * speed->efficiency,
                              three_digits(limits.peak_flops * 1e-9), three_digits(limits.bytes_per_second * 1e-9),
                              speed->source, ranks_.grid.ranks() > 1 ? ", without messages between ranks" : "");
}

/// Collective. Nothing where steps are not worth an estimate.
std::optional<bench::StepSpeed> speed_of(const mpi::Communicator& world, const TrainConfiguration& configuration,
                                         const PlannedHost& planned, const mpi::PlaceSettings& place) {
    if (configuration.compute.precision == kernels::Precision::fp32) {
        return std::nullopt;
    }
    if (!planned.benchmark.empty()) {
        std::optional<bench::StepSpeed> speed;
        world.agree([&] { speed = bench::speed_of(measure::read_results(planned.benchmark), planned.benchmark); });
        return speed;
    }
    return bench::measure_speed(world, mpi::place(world, {.threads = place.threads}));
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
        ranks.emplace(world, configuration, placement);
        architecture = train::read_architecture(configuration.model, ranks->grid);
        train::fit_to_checkpoint(configuration.model, architecture);
        configuration.settle_adapters(architecture);
    });
    train::print_warnings(world, {architecture.warning});
    train::print_warnings(world, configuration.decoder.lora.warnings);
    RunPlans plans(world, configuration, architecture, *ranks);
    const MemoryPlan plan = plans.plan();
    const std::string pass = fmt::format("passes of {}, {}{}", core::counted(plans.sequences(), "sequence"),
                                         core::counted(plans.tokens(), "token"),
                                         plans.data() ? " in the longest of " + plans.data()->train.name : "");
    print(world, fmt::format("{}: {}, {} of them with experts\n"
                             "adapted: {}\n"
                             "a rank holds {} of the parameters, and {} of adapters\n"
                             "ranks {} = {}, {} each; {}, {}\n\n{}\n{}\n{}\n",
                             configuration.model.name(), core::counted(architecture.layers, "layer"),
                             architecture.moe_layers(),
                             describe(model::adapted_modules(architecture, configuration.decoder.lora)),
                             core::short_count(plan.parameters), core::short_count(plan.adapter_parameters),
                             ranks->grid.ranks(), describe(ranks->grid), core::counted(ranks->threads, "thread"), pass,
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
    print(world, plans.describe_steps(architecture, speed_of(world, configuration, planned, place)));
    if (planned.is_other(place) && planned.benchmark.empty()) {
        print(world, "  the time is that of this machine, not of the one that is planned for\n");
    }
    return ExitCode::success;
}

}  // namespace moesaic::app
