// moesaic train
#include "app/command.hpp"
#include "app/run_output.hpp"
#include "app/stop_signals.hpp"
#include "app/train_configuration.hpp"
#include "core/error.hpp"
#include "io/checkpoint.hpp"
#include "measure/run_keys.hpp"
#include "mpi/watchdog.hpp"
#include "train/runtime.hpp"
#include "train/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace moesaic::app {
namespace {

using core::ExitCode;
using train::Dataset;

/// Data and sizes that are known before weights are loaded.
struct TrainInputs {
    model::Architecture architecture;
    Dataset train;
    std::optional<Dataset> eval;

    /// The most rows that the experts of a rank can meet in one pass.
    [[nodiscard]] index_t max_tokens(const TrainConfiguration& configuration, int ranks) const {
        const train::BatchSettings& batches = configuration.train.batches;
        return std::max(train.largest_sum(batches.per_pass(ranks)), eval ? eval->largest_sum(batches.batch_size) : 0);
    }
};

/// Collective. The model's architecture; settles what is adapted.
model::Architecture choose_model(const train::Runtime& runtime, TrainConfiguration& configuration) {
    runtime.world.agree([&] { core::require_set("output.dir", configuration.output.directory); });
    model::Architecture architecture = train::read_architecture(runtime, configuration.model);
    runtime.world.agree([&] { configuration.settle_adapters(architecture); });
    return architecture;
}

TrainInputs read_inputs(const train::Runtime& runtime, const TrainConfiguration& configuration,
                        model::Architecture architecture) {
    TrainInputs inputs;
    inputs.architecture = std::move(architecture);
    const train::DataSettings& data = configuration.data;
    runtime.world.agree([&] { core::require_set("data.train", data.train); });
    inputs.train = train::load_dataset(runtime.world, data.train, inputs.architecture.vocabulary, data.max_length);
    if (!data.eval.empty()) {
        inputs.eval = train::load_dataset(runtime.world, data.eval, inputs.architecture.vocabulary, data.max_length);
    }
    return inputs;
}

/// Collective. The checkpoint that output.resume asks for, or an empty path.
std::string checkpoint_to_resume(const train::Runtime& runtime, const OutputSettings& output, const RunFolder& folder) {
    std::string file;
    runtime.world.agree([&] {
        if (runtime.world.is_root() && output.resume == "auto") {
            file = io::CheckpointFolder(folder.checkpoints()).latest().value_or(std::filesystem::path()).string();
        }
    });
    runtime.world.broadcast(file);
    return output.resume == "auto" || output.resume == "never" ? file : output.resume;
}

model::DecoderSettings settings_of(const train::Runtime& runtime, const TrainConfiguration& configuration,
                                   const TrainInputs& inputs) {
    return configuration.decoder_settings(inputs.max_tokens(configuration, runtime.world.size()));
}

template <class Scalar>
class TrainRun {
public:
    TrainRun(const train::Runtime& runtime, const TrainConfiguration& configuration, const TrainInputs& inputs,
             RunOutput& output);
    /// Collective. Trains to the end, or until a stop was requested.
    ExitCode run();

private:
    void start_or_resume();
    void evaluate();
    void save();
    void report_totals(double seconds, std::int64_t tokens);

    const train::Runtime& runtime_;
    const TrainConfiguration& configuration_;
    const TrainInputs& inputs_;
    RunOutput& output_;
    train::TrainSession<Scalar> session_;
    nlohmann::json totals_;
};

template <class Scalar>
TrainRun<Scalar>::TrainRun(const train::Runtime& runtime, const TrainConfiguration& configuration,
                           const TrainInputs& inputs, RunOutput& output)
    : runtime_(runtime),
      configuration_(configuration),
      inputs_(inputs),
      output_(output),
      session_(train::load_model<Scalar>(runtime, inputs.architecture, configuration.model,
                                         settings_of(runtime, configuration, inputs), train::Purpose::training),
               inputs.train, configuration.train, runtime.kernels, runtime.grid, stop_signal_arrived) {
    output.set_memory_plan(train::plan_memory(runtime, session_.decoder().architecture(),
                                              settings_of(runtime, configuration, inputs), sizeof(Scalar),
                                              train::Purpose::training));
}

template <class Scalar>
void TrainRun<Scalar>::start_or_resume() {
    const std::string file = checkpoint_to_resume(runtime_, configuration_.output, output_.folder());
    if (file.empty()) {
        if (configuration_.init.empty()) {
            session_.start();
        } else {
            session_.start_from(configuration_.init);
        }
        return;
    }
    session_.resume(file);
    output_.say(fmt::format("resuming from {} at step {} of {}", file, session_.steps_done(), session_.total_steps()));
    if (session_.steps_done() >= session_.total_steps()) {
        output_.say(
            "that run is complete: nothing is left to train; to train anew choose another output.dir, or set "
            "output.resume = never");
    }
}

template <class Scalar>
void TrainRun<Scalar>::evaluate() {
    if (inputs_.eval) {
        const train::Evaluation evaluation = session_.evaluate(*inputs_.eval);
        output_.record(session_.steps_done(), evaluation);
        totals_[measure::run_keys::eval_loss] = evaluation.loss();
        totals_[measure::run_keys::eval_exact] = evaluation.exact_percent();
    }
}

template <class Scalar>
void TrainRun<Scalar>::save() {
    session_.save_checkpoint(output_.folder().checkpoints(), static_cast<int>(configuration_.output.checkpoint_keep),
                             configuration_.options.settings());
}

template <class Scalar>
void TrainRun<Scalar>::report_totals(double seconds, std::int64_t tokens) {
    const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
    totals_[measure::run_keys::steps] = session_.steps_done();
    totals_[measure::run_keys::tokens] = tokens;
    totals_[measure::run_keys::seconds] = seconds;
    totals_[measure::run_keys::tokens_per_second] = rate;
    output_.finish(totals_);
    output_.say(fmt::format("results are in {}", output_.folder().path.string()));
    output_.say(fmt::format("FOM train_tokens_per_second = {:.1f} tokens/s", rate));
}

template <class Scalar>
ExitCode TrainRun<Scalar>::run() {
    start_or_resume();
    const index_t first_step = session_.steps_done();
    const index_t total_steps = session_.total_steps();
    output_.begin_metrics(first_step, total_steps);
    output_.say(fmt::format("{}: {} sequences ({} cut), {} steps, {} LoRA parameters, {} ranks x {} threads, {}",
                            inputs_.train.name, inputs_.train.sequences(), inputs_.train.truncated, total_steps,
                            session_.decoder().lora().global_size(), runtime_.world.size(), runtime_.placement.threads,
                            runtime_.kernels.template gemm_name<Scalar>()));
    if (first_step == 0) {
        evaluate();
    }
    double seconds = 0;
    std::int64_t tokens = 0;
    bool stopped = false;
    const index_t eval_every = configuration_.train.eval_every;
    while (session_.steps_done() < total_steps && !stopped) {
        const train::StepResult result = session_.step();
        output_.record(result);
        seconds += result.seconds;
        tokens += result.decision.tokens;
        if (!result.decision.apply) {
            output_.say(fmt::format("step {} skipped: {}", result.step,
                                    result.decision.target_tokens == 0 ? "no token of its batch is trained on"
                                                                       : "loss or gradients are not finite"));
        }
        const bool last = result.step == total_steps;
        stopped = result.decision.stop && !last;
        if (!last && eval_every > 0 && result.step % eval_every == 0) {
            evaluate();
        }
        if (result.decision.checkpoint && !last) {
            save();
        }
    }
    if (stopped) {
        output_.say(fmt::format("stopped on request at step {} of {}; run the same command again to continue",
                                session_.steps_done(), total_steps));
    } else {
        if (session_.steps_done() > first_step || first_step == 0) {
            save();
        }
        evaluate();
        session_.store().save(output_.folder().adapter(), configuration_.output.adapter_layout,
                              configuration_.model.name(), inputs_.architecture);
    }
    report_totals(seconds, tokens);
    return stopped ? ExitCode::stopped_for_requeue : ExitCode::success;
}

}  // namespace

ExitCode run_train(const mpi::Communicator& world, Arguments arguments) {
    TrainConfiguration configuration;
    if (!parse_options_only(world, "train", configuration.options, arguments)) {
        return ExitCode::success;
    }
    const mpi::Watchdog watchdog(world, configuration.watchdog.limit_seconds);
    const train::Runtime runtime(world, configuration.place, configuration.grid, configuration.compute);
    const model::Architecture architecture = choose_model(runtime, configuration);
    RunOutput output(runtime, configuration.output.directory, configuration.options.settings());
    if (configuration.output.trace) {
        output.begin_trace();
    }
    const TrainInputs inputs = read_inputs(runtime, configuration, architecture);
    listen_for_stop_signals();
    return kernels::with_precision(configuration.compute.precision, [&](auto scalar) {
        return TrainRun<decltype(scalar)>(runtime, configuration, inputs, output).run();
    });
}

}  // namespace moesaic::app
