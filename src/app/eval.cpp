// moesaic eval
#include "app/command.hpp"
#include "app/progress.hpp"
#include "app/train_configuration.hpp"
#include "core/error.hpp"
#include "io/files.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/watchdog.hpp"
#include "ops/arithmetic_option.hpp"
#include "train/adapter_store.hpp"
#include "train/batches.hpp"
#include "train/evaluation.hpp"
#include "train/grid_choice.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace moesaic::app {
namespace {

using core::ExitCode;

struct EvalConfiguration {
    train::ModelSettings model;
    std::string adapter;
    std::string scores;  ///< file, or empty
    train::DataSettings data;
    train::BatchSettings batches;
    mpi::GridSettings grid;
    mpi::PlaceSettings place;
    model::DecoderSettings decoder;
    kernels::ComputeSettings compute;
    mpi::WatchdogSettings watchdog;
    core::OptionSet options;

    EvalConfiguration() {
        options.need({"model.path", "model.synthetic"});
        options.need({"data.eval", "data.eval_fraction"});
        options.add_path("output", scores, "file for the loss and exactness of every sequence, as JSON lines");
        model.declare(options);
        data.declare(options);
        options.add_path("lora.init", adapter, "folder of a PEFT adapter to evaluate with; without it the model alone");
        batches.declare_batch_size(options);
        compute.declare(options);
        ops::declare_arithmetic(options, model.arithmetic);
        grid.declare(options);
        place.declare(options);
        decoder.declare_chunks(options);
        watchdog.declare(options);
        options.ignore_in_files(TrainConfiguration().options.keys());
    }
};

struct Result {
    train::Dataset data;
    train::Evaluation evaluation;
};

/// Of data.eval, or else the share of data.train that a training run with these settings holds back.
train::Dataset load_data(const mpi::Communicator& world, const train::DataSettings& settings, index_t vocabulary) {
    return settings.eval.empty() ? train::load_training_data(world, settings, vocabulary).eval.value()
                                 : train::load_dataset(world, settings.eval, vocabulary, settings.max_length);
}

/// Collective.
mpi::GridShape choose_grid(const train::Ranks& ranks, const EvalConfiguration& configuration,
                           const model::Architecture& architecture, const train::Dataset& data,
                           const model::DecoderSettings& settings) {
    model::Architecture as_stored = architecture;
    ranks.world.agree([&] { train::fit_to_checkpoint(configuration.model, as_stored); });
    const std::size_t scalar_bytes =
        kernels::with_precision(configuration.compute.precision, [](auto scalar) { return sizeof(scalar); });
    train::PassPlanner planner(as_stored, settings,
                               train::memory_request(ranks, scalar_bytes, train::Purpose::evaluation));
    const index_t batch_size = configuration.batches.batch_size;
    const train::PlanOfPasses plan = [&](const train::PassChoice& choice) {
        return planner.plan(choice, {settings.max_tokens, std::min(batch_size, data.sequences())});
    };
    train::StepsToCome steps = train::steps_of(ranks);
    steps.batch_size = std::min(batch_size, data.sequences());
    steps.sequence_length = data.mean_length();
    steps.chunks = settings.chunks;
    steps.training = false;
    return train::choose_grid(
        ranks,
        {.wanted = configuration.model.settle(configuration.grid),
         .architecture = as_stored,
         .lora = settings.lora,
         .steps = steps,
         .plan = plan,
         .options = {.wanted = {.weights = configuration.model.weights, .share = configuration.model.share},
                     .batch_size = batch_size,
                     .experts = as_stored.experts}},
        configuration.compute.precision);
}

template <class Scalar>
Result evaluate(const train::Ranks& ranks, const EvalConfiguration& configuration, Progress& progress) {
    model::Architecture architecture;
    ranks.world.agree([&] {
        architecture =
            train::read_architecture(configuration.model, configuration.grid, configuration.compute.precision);
    });
    const train::Dataset data = load_data(ranks.world, configuration.data, architecture.vocabulary);
    train::print_warnings(ranks.world, data.warnings(architecture.positions));
    model::DecoderSettings settings = configuration.decoder;
    settings.max_tokens = data.largest_sum(configuration.batches.batch_size);
    settings.lora.rank = 0;
    ranks.world.agree([&] {
        if (!configuration.adapter.empty()) {
            settings.lora = train::read_adapter_settings(configuration.adapter, architecture);
        }
    });
    const train::Runtime runtime(ranks, choose_grid(ranks, configuration, architecture, data, settings));
    const auto decoder =
        train::load_model<Scalar>(runtime, architecture, configuration.model, settings, train::Purpose::evaluation,
                                  [&](const train::LoadProgress& load) { progress.show(to_text(load)); });
    runtime.world.agree([&] {
        if (!configuration.adapter.empty()) {
            train::AdapterStore(decoder->lora(), runtime.grid).load(configuration.adapter, architecture);
            decoder->update_lora();
            progress.say("adapted: " + describe(model::adapted_modules(architecture, settings.lora)));
        }
    });
    return {data,
            train::evaluate<Scalar>(*decoder, runtime.kernels, runtime.grid, data,
                                    {.batch_size = configuration.batches.batch_size,
                                     .scores = !configuration.scores.empty(),
                                     .goes_on = [&](index_t done) {
                                         progress.show_briefly(fmt::format("evaluating {}/{}", done, data.sequences()));
                                         return true;
                                     }})};
}

/// One JSON object per sequence, in the order of the data.
std::string to_lines(const std::vector<train::SequenceScore>& scores) {
    std::string text;
    for (std::size_t s = 0; s < scores.size(); ++s) {
        const train::SequenceScore& score = scores[s];
        nlohmann::ordered_json line = {{"sequence", s}, {"target_tokens", score.target_tokens}};
        if (score.target_tokens > 0) {
            line["loss"] = score.loss_sum / static_cast<double>(score.target_tokens);
            line["exact"] = score.is_exact();
            line["first_wrong"] =
                score.is_exact() ? nlohmann::ordered_json() : nlohmann::ordered_json(score.first_wrong);
        }
        text += line.dump() + "\n";
    }
    return text;
}

}  // namespace

ExitCode run_eval(const mpi::Communicator& world, Arguments arguments) {
    EvalConfiguration configuration;
    if (!parse_options_only(world, "eval", configuration.options, arguments)) {
        return ExitCode::success;
    }
    world.agree([&] {
        const train::DataSettings& data = configuration.data;
        core::require(
            !data.eval.empty() || !data.train.empty(), ExitCode::usage,
            "data.train is not set (data.eval_fraction = {} is a share of it); write --data.train VALUE, or set "
            "data.eval",
            data.eval_fraction);
        if (world.is_root() && !configuration.scores.empty()) {
            io::require_writable(configuration.scores);
        }
    });
    const mpi::Watchdog watchdog(world, configuration.watchdog.limit_seconds);
    const train::Ranks ranks(world, configuration.place, configuration.compute);
    Progress progress(world.is_root());
    const Result result = kernels::with_precision(configuration.compute.precision, [&](auto scalar) {
        return evaluate<decltype(scalar)>(ranks, configuration, progress);
    });
    const train::Evaluation& evaluation = result.evaluation;
    world.agree([&] {
        core::require(
            std::isfinite(evaluation.loss()), ExitCode::runtime_failure,
            "the loss of {} is not finite ({}); check the weights and the adapter, or try compute.precision = "
            "fp32",
            result.data.name, evaluation.loss());
        if (world.is_root() && !configuration.scores.empty()) {
            io::write_file_atomically(configuration.scores, to_lines(evaluation.scores));
        }
    });
    progress.say(result.data.summary());
    print(world, fmt::format("FOM eval_loss = {:.6f} nats/token\n", evaluation.loss()));
    print(world, fmt::format("FOM eval_perplexity = {:.4f} -\n", std::exp(evaluation.loss())));
    print(world, fmt::format("FOM eval_exact = {:.2f} percent\n", evaluation.exact_percent()));
    return ExitCode::success;
}

}  // namespace moesaic::app
