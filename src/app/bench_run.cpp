#include "app/bench_run.hpp"

#include "app/bench_summary.hpp"
#include "app/command.hpp"
#include "bench/disturbances.hpp"
#include "bench/environment.hpp"
#include "bench/google_benchmark.hpp"
#include "bench/machine.hpp"
#include "bench/shapes.hpp"
#include "bench/turns.hpp"
#include "core/error.hpp"
#include "core/trace.hpp"
#include "host/limits.hpp"
#include "io/files.hpp"
#include "measure/headline.hpp"
#include "mpi/place.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

namespace moesaic::app {
namespace {

using core::ExitCode;

/// The numbers that a list asks for, in ascending order: sizes, `word` for `most`, "powers" for 1, 2, 4, ... and
/// `most`.
std::vector<index_t> counts_of(const std::string& key, const std::string& list, std::string_view word, index_t most) {
    std::set<index_t> counts;
    std::istringstream stream(list);
    for (std::string item; std::getline(stream, item, ',');) {
        if (item == word || item == "powers") {
            counts.insert(most);
            for (index_t power = 1; item == "powers" && power < most; power *= 2) {
                counts.insert(power);
            }
        } else {
            counts.merge(std::set<index_t>{bench::parse_sizes(key, item).front()});
        }
    }
    core::require(!counts.empty(), ExitCode::usage, "{} is empty (it is a list); write {}", key, word);
    return {counts.begin(), counts.end()};
}

/// A case with one number of ranks and threads. Ranks outside of its group have no runtime.
struct Instance {
    const CaseSpec* spec;
    std::string name;
    index_t ranks;
    int threads;
    mpi::Communicator group;
    bool takes_part;
    std::unique_ptr<Runtime> runtime = nullptr;
    std::unique_ptr<bench::Console> console = nullptr;
    bench::MachineProbe* machine = nullptr;
    std::unique_ptr<bench::Benchmark> benchmark = nullptr;
};

class CaseRunner {
public:
    CaseRunner(const mpi::Communicator& world, const BenchOptions& options)
        : world_(world), options_(options), placement_(mpi::place(world)) {
        counters_ = bench::read_counters();
        threads_of_all_cores_ = static_cast<int>(world.min(static_cast<index_t>(placement_.threads)));
        use_threads(threads_of_all_cores_);
        bound_at_start_ = bound_;
        world_.agree([&] {
            if (world_.is_root() && !options_.turns.empty()) {
                turns_ = std::make_unique<bench::Turns>(options_.turns);
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
        results.program = bench::describe_program();
        const kernels::KernelSet kernels;
        const auto ranks = world_.gather(bench::describe_rank(placement_, bound_at_start_, kernels).dump());
        results.warnings = bench::noise_warnings(world_, placement_, bound_at_start_, counters_);
        std::vector<nlohmann::ordered_json> objects;
        for (const std::string& rank : ranks) {
            objects.push_back(nlohmann::ordered_json::parse(rank));
        }
        results.ranks = objects;
        results.differences = bench::differences(objects);
        results.cases = cases_;
        results.turns = !options_.turns.empty();
        return results;
    }

private:
    std::vector<Instance> expand(const std::vector<CaseSpec>& specs) {
        std::vector<Instance> instances;
        for (const CaseSpec& spec : specs) {
            const auto ranks = counts_of("ranks", spec.ranks, "all", world_.size());
            const auto threads = counts_of("threads", spec.threads, "auto", threads_of_all_cores_);
            for (const index_t r : ranks) {
                for (const index_t t : threads) {
                    const bool several = ranks.size() * threads.size() > 1;
                    const bool takes_part = world_.rank() < r;
                    instances.push_back({.spec = &spec,
                                         .name = spec.name + (several ? fmt::format("@{}x{}", r, t) : ""),
                                         .ranks = r,
                                         .threads = static_cast<int>(t),
                                         .group = world_.split(takes_part ? 0 : 1, world_.rank()),
                                         .takes_part = takes_part});
                }
            }
        }
        return instances;
    }

    void run_together(std::span<Instance> instances) {
        for (Instance& instance : instances) {
            within(instance, [&] { prepare(instance); });
        }
        for (index_t round = 0; round < options_.repetition.rounds; ++round) {
            for (Instance& instance : instances) {
                take_turn();
                within(instance, [&] {
                    bench::measure_round(*instance.console, *instance.benchmark, instance.machine, options_.repetition);
                });
                pass_turn();
            }
        }
        for (Instance& instance : instances) {
            within(instance, [&] {
                instance.console->say(fmt::format("-- {}\n", instance.name));
                instance.benchmark->report(*instance.console, bench::report_limits(*instance.console));
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
    void within(Instance& instance, const std::function<void()>& work) {
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
        host::Placement placement = placement_;
        placement.memory_available_bytes = host::read_host_limits().memory_available_bytes;  // others may hold some
        instance.runtime =
            std::make_unique<Runtime>(instance.group, placement, bound_, spec.options->grid(), spec.compute);
        instance.console = std::make_unique<bench::Console>(
            instance.group, measure::CaseResult{.name = instance.name,
                                                .benchmark = std::string(spec.kind->name),
                                                .ranks = instance.ranks,
                                                .threads = instance.threads,
                                                .alone = spec.kind->alone,
                                                .parameters = spec.parameters});
        instance.console->say(
            fmt::format("-- {}: ranks {}, threads {}\n", instance.name, instance.ranks, instance.threads));
        if (spec.kind->has_limits) {
            instance.machine = &machine_of(instance);
            instance.console->result().machine = measure::MachineSamples{
                .level = std::string(kernels::name(instance.machine->level())), .peak = {}, .dram_read = {}};
        }
        instance.benchmark = spec.options->prepare(*instance.runtime, *instance.console);
        instance.group.agree(
            [&] { bench::require_passed(instance.console->result().checks, instance.console->result().name); });
    }

    bench::MachineProbe& machine_of(const Instance& instance) {
        const kernels::Isa level = bench::bf16_level(instance.runtime->kernels);
        auto& machine = machines_[{instance.ranks, instance.threads, level}];
        if (machine == nullptr) {
            machine =
                std::make_unique<bench::MachineProbe>(instance.group, kernels::peak_loop(level),
                                                      bytes_beyond_caches(instance.group, instance.runtime->placement));
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
    bench::SystemCounters counters_;
    int threads_of_all_cores_ = 1;
    int threads_ = 0;
    bool bound_ = false;
    bool bound_at_start_ = false;
    std::map<std::tuple<index_t, int, kernels::Isa>, std::unique_ptr<bench::MachineProbe>> machines_;
    std::vector<measure::CaseResult> cases_;
    std::unique_ptr<bench::Turns> turns_;  ///< of the root
};

}  // namespace

CaseSpec::CaseSpec(const BenchmarkKind& kind_in, std::string name_in)
    : kind(&kind_in), name(std::move(name_in)), options(kind_in.make()), threads(kind_in.threads) {}

void CaseSpec::declare(core::OptionSet& set, const std::string& prefix) {
    set.set_prefix(prefix);
    options->declare(set);
    set.add("ranks", ranks,
            "how many ranks take part: a number, all, or powers (1, 2, 4, ... all); several, separated by commas, one "
            "after the other");
    set.add(
        "threads", threads,
        "threads per rank: a number, auto (one per physical core of the rank) or powers (1, 2, 4, ... auto); several, "
        "separated by commas, one after the other");
    options->declare_sections(set);
    compute.declare_isa(set);
    set.set_prefix("");
}

void CaseSpec::check(index_t world_ranks) const {
    for (const index_t r : counts_of(name + ".ranks", ranks, "all", world_ranks)) {
        core::require(r <= world_ranks, ExitCode::usage,
                      "{}: ranks = {} exceeds the ranks of the job, {}; start more with mpirun or srun, or lower it",
                      name, r, world_ranks);
        options->check(r);
    }
    static_cast<void>(counts_of(name + ".threads", threads, "auto", 1));
}

void BenchOptions::declare(core::OptionSet& set) {
    set.add("repeat", repetition.least, "repetitions at least, after a warm-up", core::at_least(1));
    set.add("spread", repetition.spread_percent,
            "more of them, until half of every interval is within so many percent of its median");
    set.add("seconds", repetition.seconds, "or until a case has taken so long; 0: no more than --repeat");
    set.add("rounds", repetition.rounds, "in which all cases take turns, so that each is spread over the whole run",
            core::at_least(1));
    set.add("output", output, "write everything to this JSON file");
    set.add("turns", turns, "GET,GIVE: named pipes through which two runs pass turns of measuring back and forth");
    set.add("google-benchmark", google_output, "write the times to this file as Google Benchmark does");
}

void BenchOptions::check_output() const {
    for (const std::string& file : {output, google_output}) {
        if (!file.empty()) {
            io::require_writable(file);
        }
    }
}

namespace {

void write(const measure::Results& results, const BenchOptions& options) {
    if (!options.output.empty()) {
        io::write_file_atomically(options.output, measure::to_json(results).dump(1) + "\n");
    }
    if (!options.google_output.empty()) {
        io::write_file_atomically(options.google_output, bench::to_google_benchmark(results).dump(1) + "\n");
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
            print_figures(results);
            write(results, options);
        }
    });
}

}  // namespace moesaic::app
