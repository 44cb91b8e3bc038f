#include "bench/tune.hpp"

#include "bench/step_run.hpp"
#include "core/enumeration.hpp"
#include "measure/statistics.hpp"
#include "mpi/timing.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>

namespace moesaic::bench {
namespace {

/// Layers up to the second one with experts: what these add to a step is what all others add.
index_t layers_worth_measuring(const model::Architecture& architecture) {
    index_t layers = 0;
    for (index_t with_experts = 0; layers < architecture.layers && with_experts < 2; ++layers) {
        with_experts += architecture.is_moe[static_cast<std::size_t>(layers)] ? 1 : 0;
    }
    return layers;
}

class Tuner {
public:
    Tuner(const train::Ranks& ranks, const mpi::GridSettings& wanted, const StepWorkload& workload,
          const TuneLimits& limits, const std::function<void(const TuneChoice&)>& show)
        : ranks_(ranks),
          workload_(workload),
          limits_(limits),
          show_(show),
          plans_(ranks, wanted, workload_),
          costs_(plans_.architecture(), plans_.lora()),
          bytes_(static_cast<double>(ranks.world.min(ranks.memory_bytes()))) {
        if (limits_.layers == 0) {
            limits_.layers = layers_worth_measuring(plans_.architecture());
        }
    }

    std::vector<Tried> run() {
        const std::vector<train::GridOption> grids =
            train::grid_options(ranks_, plans_.question(), kernels::Precision::bf16);
        rates_ = train::rates_of(ranks_);
        for (const train::GridOption& option : grids) {
            if (option.fits) {
                try_out({.grid = option.grid(),
                         .chunks = workload_.decoder.chunks,
                         .micro_batch = option.passes.micro_batch,
                         .activations = option.passes.activations});
            }
            if (2 * static_cast<index_t>(tried_.size()) >= limits_.most_tried) {
                break;  // the other half is for what else can be chosen
            }
        }
        sort();
        if (!tried_.empty() && tried_.front().seconds) {
            vary(tried_.front().choice);
        }
        return tried_;
    }

private:
    /// Others on the same grid, those first that are predicted to be fastest.
    void vary(const TuneChoice& best) {
        std::vector<TuneChoice> choices;
        const auto add = [&](TuneChoice choice) {
            if (choice != best && std::find(choices.begin(), choices.end(), choice) == choices.end() && fits(choice)) {
                choices.push_back(choice);
            }
        };
        if (best.grid.expert * best.grid.tensor > 1) {
            for (const index_t chunks : {1, 2, 4}) {
                add({best.grid, chunks, best.micro_batch, best.activations});
            }
        }
        const index_t all = plans_.options(best.grid).most_of_rank(best.grid.ranks());
        for (const ops::Activations activations : core::values_of<ops::Activations>()) {
            for (index_t sequences = all; sequences > 0; sequences /= 2) {
                add({best.grid, best.chunks, sequences == all ? 0 : sequences, activations});
            }
        }
        std::stable_sort(choices.begin(), choices.end(),
                         [this](const TuneChoice& a, const TuneChoice& b) { return predicted(a) < predicted(b); });
        for (const TuneChoice& choice : choices) {
            if (static_cast<index_t>(tried_.size()) < limits_.most_tried) {
                try_out(choice);
            }
        }
        sort();
    }

    [[nodiscard]] bool fits(const TuneChoice& choice) const {
        train::PassChoice passes = plans_.options(choice.grid).wanted;
        passes.micro_batch = choice.micro_batch;
        passes.activations = choice.activations;
        // The same on all ranks, whose threads may differ.
        return ranks_.world.max(plans_.plan()(passes).total()) <= bytes_;
    }

    [[nodiscard]] double predicted(const TuneChoice& choice) const {
        train::StepsToCome steps = plans_.question().steps;
        steps.grid = choice.grid;
        steps.chunks = choice.chunks;
        steps.micro_batch = choice.micro_batch;
        steps.activations = choice.activations;
        return costs_.of(steps, rates_).total();
    }

    void try_out(const TuneChoice& choice) {
        show_(choice);
        Tried& tried = tried_.emplace_back(Tried{.choice = choice, .predicted = predicted(choice)});
        try {
            tried.seconds = measure_choice(choice);
        } catch (const mpi::AgreedError& error) {
            if (error.code() != core::ExitCode::out_of_resources) {
                throw;
            }
        }
    }

    /// The median of some steps, of the slowest rank.
    double measure_choice(const TuneChoice& choice) {
        const train::Runtime runtime(ranks_, choice.grid);
        StepWorkload measured = workload_;
        measured.model.layers = limits_.layers;
        measured.decoder.lora = plans_.lora();
        measured.decoder.chunks = choice.chunks;
        measured.decoder.activations = choice.activations;
        measured.decoder.max_tokens = plans_.tokens_of_pass(choice.micro_batch, choice.grid.ranks());
        measured.batches.micro_batch = choice.micro_batch;
        model::Architecture architecture = plans_.architecture();
        architecture.limit_layers(limits_.layers);
        const train::Dataset data = random_tokens(measured.batches.batch_size * (limits_.steps + 1), measured.length,
                                                  architecture.vocabulary, 0);
        train::TrainSession<core::bf16> session(load_random_factors(runtime, architecture, measured), data,
                                                settings_of_steps(measured.batches), runtime.kernels, runtime.grid);
        session.step();
        std::vector<double> seconds;
        for (index_t step = 0; step < limits_.steps; ++step) {
            seconds.push_back(mpi::seconds_of(ranks_.world, [&] { session.step(); }).slowest);
        }
        return measure::summarize(seconds).median;
    }

    void sort() {
        std::stable_sort(tried_.begin(), tried_.end(), [](const Tried& a, const Tried& b) {
            constexpr double none = std::numeric_limits<double>::infinity();
            return a.seconds.value_or(none) < b.seconds.value_or(none);
        });
    }

    const train::Ranks& ranks_;
    StepWorkload workload_;
    TuneLimits limits_;
    const std::function<void(const TuneChoice&)>& show_;
    StepPlans plans_;
    train::CostModel costs_;
    double bytes_;
    train::MachineRates rates_;
    std::vector<Tried> tried_;
};

}  // namespace

std::vector<Tried> tune(const train::Ranks& ranks, const mpi::GridSettings& wanted, const StepWorkload& workload,
                        const TuneLimits& limits, const std::function<void(const TuneChoice&)>& show) {
    return Tuner(ranks, wanted, workload, limits, show).run();
}

std::string describe(const TuneChoice& choice) {
    const auto or_word = [](index_t value, const char* word) {
        return value == 0 ? std::string(word) : fmt::format("{}", value);
    };
    return fmt::format("{}, chunks {}, micro-batch {}, {}", describe(choice.grid), or_word(choice.chunks, "auto"),
                       or_word(choice.micro_batch, "all"), core::name_of(choice.activations));
}

}  // namespace moesaic::bench
