#include "bench/case_runner.hpp"

#include "bench/disturbances.hpp"
#include "bench/environment.hpp"
#include "bench/google_results.hpp"
#include "bench/summary.hpp"
#include "bench/turns.hpp"
#include "io/files.hpp"
#include "measure/headline.hpp"
#include "mpi/place.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <map>
#include <tuple>

namespace moesaic::bench {
namespace {

/// A case with one number of ranks and threads, on one grid. Ranks outside of its group have no runtime.
struct Instance {
    const CaseSpec* spec;
    std::string name;
    index_t ranks;
    int threads;
    mpi::Communicator group;
    bool takes_part;
    CaseGrid grid = {};
    std::unique_ptr<train::Runtime> runtime = nullptr;
    std::unique_ptr<Console> console = nullptr;
    train::MachineProbe* machine = nullptr;
    std::unique_ptr<Benchmark> benchmark = nullptr;
};

class CaseRunner {
public:
    CaseRunner(const mpi::Communicator& world, const BenchOptions& options)
        : world_(world), options_(options), placement_(mpi::place(world)) {
        counters_ = read_counters();
        threads_of_all_cores_ = static_cast<int>(world.min(static_cast<index_t>(placement_.threads)));
        use_threads(threads_of_all_cores_);
        bound_at_start_ = bound_;
        world_.agree([&] {
            if (world_.is_root() && !options_.turns.empty()) {
                turns_ = std::make_unique<Turns>(options_.turns);
            }
        });
    }

    /// Calls `after_each` when results have grown, but for the last time.
    void run(const std::vector<CaseSpec>& specs, const std::function<void()>& after_each) {
        std::vector<Instance> instances = expand(specs);
        if (options_.repetition.rounds > 1) {  // cases take turns, so all must be there
            run_together(instances);
            return;
        }
        for (Instance& instance : instances) {
            run_together({&instance, 1});
            machines_.clear();
            if (&instance != &instances.back()) {
                after_each();
            }
        }
    }

    /// Collective. Of the cases so far.
    [[nodiscard]] measure::Results results() const {
        measure::Results results;
        results.program = describe_program();
        const kernels::KernelSet kernels;
        const auto ranks = world_.gather(describe_rank(placement_, bound_at_start_, kernels).dump());
        host::Placement placement = placement_;
        placement.threads = most_threads_;
        results.warnings = noise_warnings(world_, placement, bound_at_start_, counters_);
        for (const measure::CaseResult& result : cases_) {
            const auto lines = beyond_limits(result);
            results.warnings.insert(results.warnings.end(), lines.begin(), lines.end());
        }
        std::vector<nlohmann::ordered_json> objects;
        for (const std::string& rank : ranks) {
            objects.push_back(nlohmann::ordered_json::parse(rank));
        }
        results.ranks = objects;
        results.differences = differences(objects);
        results.cases = cases_;
        results.turns = !options_.turns.empty();
        return results;
    }

private:
    std::vector<Instance> expand(const std::vector<CaseSpec>& specs) {
        std::vector<Instance> instances;
        for (const CaseSpec& spec : specs) {
            const auto ranks = spec.rank_counts(world_.size());
            const auto threads = spec.thread_counts(threads_of_all_cores_);
            most_threads_ = std::max(most_threads_, static_cast<int>(threads.back()));
            for (const index_t r : ranks) {
                for (const index_t t : threads) {
                    const bool takes_part = world_.rank() < r;
                    const Instance one = {.spec = &spec,
                                          .name = spec.name,
                                          .ranks = r,
                                          .threads = static_cast<int>(t),
                                          .group = world_.split(takes_part ? 0 : 1, world_.rank()),
                                          .takes_part = takes_part};
                    const std::vector<CaseGrid> grids = grids_of(one);
                    for (const CaseGrid& grid : grids) {
                        const std::string of_grid = grids.size() > 1 ? name_of(grid.shape) : "";
                        const std::string of_size =
                            ranks.size() * threads.size() > 1 ? fmt::format("@{}x{}", r, t) : "";
                        instances.push_back({.spec = &spec,
                                             .name = fmt::format("{}{}{}", spec.name, of_grid, of_size),
                                             .ranks = one.ranks,
                                             .threads = one.threads,
                                             .group = one.group,
                                             .takes_part = takes_part,
                                             .grid = grid});
                    }
                }
            }
        }
        return instances;
    }

    /// Part of a case's name.
    static std::string name_of(const mpi::GridShape& grid) {
        return fmt::format(".data{}-expert{}-tensor{}", grid.data, grid.expert, grid.tensor);
    }

    /// Collective. Of a case, on all ranks, also those that don't take part.
    std::vector<CaseGrid> grids_of(const Instance& instance) {
        std::vector<CaseGrid> grids;
        within(instance, [&] { grids = instance.spec->settings->grids(ranks_of(instance)); });
        std::array<index_t, 1> count = {static_cast<index_t>(grids.size())};
        world_.broadcast(std::span<index_t>(count));
        grids.resize(static_cast<std::size_t>(count[0]));
        world_.broadcast(std::span<CaseGrid>(grids));
        return grids;
    }

    train::Ranks ranks_of(const Instance& instance) const {
        host::Placement placement = placement_;
        host::update_memory(placement);  // other cases may hold some
        return {instance.group, placement, bound_, instance.spec->compute};
    }

    void run_together(std::span<Instance> instances) {
        for (Instance& instance : instances) {
            within(instance, [&] { prepare(instance); });
        }
        for (index_t round = 0; round < options_.repetition.rounds; ++round) {
            for (Instance& instance : instances) {
                take_turn();
                within(instance, [&] {
                    measure_round(*instance.console, *instance.benchmark, instance.machine, options_.repetition);
                });
                pass_turn();
            }
        }
        for (Instance& instance : instances) {
            within(instance, [&] {
                instance.console->say(fmt::format("-- {}\n", instance.name));
                instance.benchmark->report(*instance.console, report_limits(*instance.console));
                cases_.push_back(instance.console->result());
            });
            instance.benchmark.reset();
        }
    }

    /// Collective. Waits for another run; ranks other than the root sleep as well.
    void take_turn() {
        if (options_.turns.empty()) {
            return;
        }
        std::exception_ptr error;
        try {
            if (turns_) {
                turns_->take();
            }
        } catch (...) {
            error = std::current_exception();
        }
        world_.sleeping_barrier();
        world_.agree([&] {
            if (error) {
                std::rethrow_exception(error);
            }
        });
    }
    void pass_turn() {
        world_.agree([&] {
            if (turns_) {
                turns_->pass();
            }
        });
    }

    /// Collective. Runs `work` on the ranks of the case with its threads; the others sleep. An error that its ranks
    /// agree on becomes that of all.
    void within(const Instance& instance, const std::function<void()>& work) {
        use_threads(instance.threads);
        if (instance.ranks == world_.size()) {
            work();
            return;
        }
        std::exception_ptr error;
        if (instance.takes_part) {
            try {
                work();
            } catch (const mpi::AgreedError&) {
                error = std::current_exception();
            }
        }
        world_.sleeping_barrier();
        world_.agree([&] {
            if (error) {
                std::rethrow_exception(error);
            }
        });
    }

    void prepare(Instance& instance) {
        const CaseSpec& spec = *instance.spec;
        instance.runtime = std::make_unique<train::Runtime>(ranks_of(instance), instance.grid.shape);
        instance.console =
            std::make_unique<Console>(instance.group, measure::CaseResult{.name = instance.name,
                                                                          .benchmark = std::string(spec.kind->name),
                                                                          .ranks = instance.ranks,
                                                                          .threads = instance.threads,
                                                                          .alone = spec.kind->alone,
                                                                          .parameters = spec.parameters});
        add_prediction(instance.grid, instance.console->result());
        instance.console->say(
            fmt::format("-- {}: ranks {}, threads {}\n", instance.name, instance.ranks, instance.threads));
        if (spec.kind->has_limits) {
            instance.machine = &machine_of(instance);
            instance.console->result().machine = measure::MachineSamples{
                .level = std::string(kernels::name(instance.machine->level())), .peak = {}, .dram_read = {}};
        }
        instance.benchmark = spec.settings->prepare(*instance.runtime, *instance.console);
        instance.group.agree(
            [&] { require_passed(instance.console->result().checks, instance.console->result().name); });
    }

    /// Beside what is measured, for summaries and for whoever fits the model of costs.
    static void add_prediction(const CaseGrid& grid, measure::CaseResult& result) {
        if (!grid.predicted) {
            return;
        }
        result.parameters.emplace_back("grid", describe(grid.shape));
        result.parameters.emplace_back("grid.choice", grid.is_choice ? "auto" : "-");
        const train::StepCost& cost = *grid.predicted;
        for (const auto& [name, seconds] :
             {std::pair(measure::figures::step_predicted, cost.total()),
              std::pair("step_predicted_experts", cost.experts), std::pair("step_predicted_other", cost.other),
              std::pair("step_predicted_exchange", cost.exchange),
              std::pair("step_predicted_reduction", cost.reduction)}) {
            result.figures.push_back({.name = name, .unit = "s", .value = seconds, .quantity = name});
        }
    }

    train::MachineProbe& machine_of(const Instance& instance) {
        const kernels::Isa level = train::bf16_level(instance.runtime->kernels);
        auto& machine = machines_[{instance.ranks, instance.threads, level}];
        if (machine == nullptr) {
            machine = std::make_unique<train::MachineProbe>(instance.group, kernels::peak_loop(level),
                                                            train::bytes_beyond_caches(*instance.runtime));
        }
        return *machine;
    }

    void use_threads(int threads) {
        if (threads != threads_) {
            placement_.threads = threads_ = threads;
            bound_ = host::bind_threads(placement_);
        }
    }

    mpi::Communicator world_;
    const BenchOptions& options_;
    host::Placement placement_;
    SystemCounters counters_;
    int threads_of_all_cores_ = 1;
    int threads_ = 0;
    int most_threads_ = 1;  ///< of any case
    bool bound_ = false;
    bool bound_at_start_ = false;
    std::map<std::tuple<index_t, int, kernels::Isa>, std::unique_ptr<train::MachineProbe>> machines_;
    std::vector<measure::CaseResult> cases_;
    std::unique_ptr<Turns> turns_;  ///< of the root
};

void write(const measure::Results& results, const BenchOptions& options) {
    if (!options.output.empty()) {
        io::write_file_atomically(options.output, measure::to_json(results).dump(1) + "\n");
    }
    if (!options.google_output.empty()) {
        io::write_file_atomically(options.google_output, to_google_benchmark(results).dump(1) + "\n");
    }
}

}  // namespace

void run_cases(const mpi::Communicator& world, const std::vector<CaseSpec>& specs, const BenchOptions& options,
               const std::string& command, const std::string& deck) {
    const auto start = std::chrono::system_clock::now();
    world.agree([&] {
        if (world.is_root()) {
            options.check_output();
        }
        for (const CaseSpec& spec : specs) {
            spec.check(world.size());
        }
    });
    CaseRunner runner(world, options);
    const auto collect = [&](bool complete) {
        measure::Results results = runner.results();
        results.complete = complete;
        results.command = command;
        results.deck = deck;
        results.started = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(start));
        results.seconds = std::chrono::duration<double>(std::chrono::system_clock::now() - start).count();
        if (complete) {  // every case is right
            results.headline = measure::headline_of(results.cases);
        }
        return results;
    };
    // A job that is ended by its time limit keeps what it has.
    runner.run(specs, [&] {
        const measure::Results results = collect(/*complete=*/false);
        world.agree([&] {
            if (world.is_root()) {
                write(results, options);
            }
        });
    });
    const measure::Results results = collect(/*complete=*/true);
    world.agree([&] {
        if (world.is_root()) {
            print_scaling(results.cases);
            print_grids(results.cases);
            print_figures(results);
            write(results, options);
        }
    });
}

}  // namespace moesaic::bench
