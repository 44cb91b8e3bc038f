// moesaic train
#include "app/command.hpp"
#include "app/run_output.hpp"
#include "app/runtime.hpp"
#include "app/stop_signals.hpp"
#include "app/train_configuration.hpp"
#include "core/error.hpp"
#include "io/checkpoint.hpp"
#include "mpi/watchdog.hpp"
#include "train/adapter.hpp"
#include "train/options.hpp"
#include "train/run_state.hpp"
#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace moesaic::app {
namespace {

using core::ExitCode;
using train::Dataset;

/// Data and sizes that are known before weights are loaded.
struct TrainInputs {
    model::Architecture architecture;
    model::LoraSettings lora;
    Dataset train;
    std::optional<Dataset> eval;

    /// The most rows that the experts of a rank can meet in one pass.
    [[nodiscard]] index_t max_tokens(const TrainConfiguration& configuration, int ranks) const {
        return std::max(train.largest_sum(configuration.batches().per_pass(ranks)),
                        eval ? eval->largest_sum(configuration.train.batch_size) : 0);
    }
};

TrainInputs read_inputs(const Runtime& runtime, const TrainConfiguration& configuration) {
    TrainInputs inputs;
    inputs.architecture = read_architecture(runtime, configuration.model);
    const train::DataOptions& data = configuration.data;
    runtime.world.agree([&] {
        require_set("data.train", data.train);
        inputs.lora = configuration.lora.settings(inputs.architecture);
        inputs.lora.dropout_seed = static_cast<std::uint64_t>(configuration.train.seed);
    });
    inputs.train = train::load_dataset(runtime.world, data.train, inputs.architecture.vocabulary, data.max_length);
    if (!data.eval.empty()) {
        inputs.eval = train::load_dataset(runtime.world, data.eval, inputs.architecture.vocabulary, data.max_length);
    }
    return inputs;
}

/// Collective. The checkpoint that output.resume asks for, or an empty path.
std::string checkpoint_to_resume(const Runtime& runtime, const train::OutputOptions& output, const RunFolder& folder) {
    std::string file;
    runtime.world.agree([&] {
        if (runtime.world.is_root() && output.resume == "auto") {
            file = io::CheckpointFolder(folder.checkpoints()).latest().value_or(std::filesystem::path()).string();
        }
    });
    runtime.world.broadcast(file);
    return output.resume == "auto" || output.resume == "never" ? file : output.resume;
}

model::DecoderSettings settings_of(const Runtime& runtime, const TrainConfiguration& configuration,
                                   const TrainInputs& inputs) {
    return {inputs.lora, configuration.train.activations_of_layers(),
            inputs.max_tokens(configuration, runtime.world.size()), configuration.train.router_aux_coefficient > 0,
            runtime.chunks};
}

template <class T>
class TrainRun {
public:
    TrainRun(const Runtime& runtime, const TrainConfiguration& configuration, const TrainInputs& inputs,
             RunOutput& output);
    /// Collective. Trains to the end, or until a stop was requested.
    ExitCode run();

private:
    void start_or_resume();
    void evaluate();
    void save();
    void report_totals(double seconds, std::int64_t tokens);

    const Runtime& runtime_;
    const TrainConfiguration& configuration_;
    const TrainInputs& inputs_;
    RunOutput& output_;
    std::unique_ptr<model::Decoder<T>> decoder_;
    train::ShardedAdamW optimizer_;
    train::GradientCoordinator coordinator_;
    train::Batches batches_;
    index_t total_steps_;
    train::RunState state_;
    train::Trainer<T> trainer_;
    nlohmann::json totals_;
};

template <class T>
TrainRun<T>::TrainRun(const Runtime& runtime, const TrainConfiguration& configuration, const TrainInputs& inputs,
                      RunOutput& output)
    : runtime_(runtime),
      configuration_(configuration),
      inputs_(inputs),
      output_(output),
      decoder_(load_model<T>(runtime, inputs.architecture, configuration.model,
                             settings_of(runtime, configuration, inputs), Purpose::training)),
      optimizer_(decoder_->lora(), runtime.kernels, runtime.grid, configuration.train.adamw()),
      coordinator_(runtime.world, {configuration.train.max_gradient_norm, configuration.train.save_every,
                                   configuration.output.wall_time_seconds()}),
      batches_(inputs.train, configuration.batches(), runtime.world.rank(), runtime.world.size()),
      total_steps_(configuration.train.steps > 0 ? configuration.train.steps
                                                 : configuration.train.epochs * batches_.steps_per_epoch()),
      state_{0, configuration.train.batch_size, configuration.data.shuffle,
             static_cast<std::uint64_t>(configuration.train.seed), inputs.train.fingerprint()},
      trainer_({*decoder_, runtime_.kernels, runtime_.grid, optimizer_, coordinator_, batches_,
                train::Schedule{configuration.train.schedule, configuration.train.learning_rate,
                                configuration.train.warmup_steps, total_steps_},
                stop_signal_arrived, configuration.train.router_aux_coefficient}) {
    output.set_memory_plan(plan_memory(runtime, decoder_->architecture(), settings_of(runtime, configuration, inputs),
                                       sizeof(T), Purpose::training));
}

template <class T>
void TrainRun<T>::start_or_resume() {
    const std::string file = checkpoint_to_resume(runtime_, configuration_.output, output_.folder());
    runtime_.world.agree([&] {
        if (!file.empty()) {
            state_ = load_checkpoint(file, state_, inputs_.architecture, decoder_->lora(), optimizer_);
        } else if (!configuration_.lora.init.empty()) {
            train::load_adapter(configuration_.lora.init, inputs_.architecture, decoder_->lora());
        } else {
            decoder_->lora().initialise(static_cast<std::uint64_t>(configuration_.train.seed));
        }
        decoder_->update_lora();
    });
    trainer_.set_steps_done(state_.step);
    if (!file.empty()) {
        output_.say(fmt::format("resuming from {} at step {} of {}", file, state_.step, total_steps_));
        if (state_.step >= total_steps_) {
            output_.say(
                "that run is complete: nothing is left to train; to train anew choose another output.dir, or set "
                "output.resume = never");
        }
    }
}

template <class T>
void TrainRun<T>::evaluate() {
    if (inputs_.eval) {
        const train::Evaluation evaluation = train::evaluate<T>(*decoder_, runtime_.kernels, runtime_.grid,
                                                                *inputs_.eval, configuration_.train.batch_size);
        output_.record(trainer_.steps_done(), evaluation);
        totals_["eval_loss"] = evaluation.loss();
        totals_["eval_exact"] = evaluation.exact_percent();
    }
}

template <class T>
void TrainRun<T>::save() {
    state_.step = trainer_.steps_done();
    save_checkpoint(output_.folder().checkpoints(), static_cast<int>(configuration_.output.checkpoint_keep), state_,
                    configuration_.options.settings(), inputs_.architecture, decoder_->lora(), optimizer_,
                    runtime_.grid);
}

template <class T>
void TrainRun<T>::report_totals(double seconds, std::int64_t tokens) {
    const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
    totals_["steps"] = trainer_.steps_done();
    totals_["tokens"] = tokens;
    totals_["seconds"] = seconds;
    totals_["tokens_per_second"] = rate;
    output_.finish(totals_);
    output_.say(fmt::format("results are in {}", output_.folder().path.string()));
    output_.say(fmt::format("FOM train_tokens_per_second = {:.1f} tokens/s", rate));
}

template <class T>
ExitCode TrainRun<T>::run() {
    start_or_resume();
    output_.begin_metrics(state_.step, total_steps_);
    output_.say(fmt::format("{}: {} sequences ({} cut), {} steps, {} LoRA parameters, {} ranks x {} threads, {}",
                            inputs_.train.name, inputs_.train.sequences(), inputs_.train.truncated, total_steps_,
                            decoder_->lora().global_size(), runtime_.world.size(), runtime_.placement.threads,
                            runtime_.kernels.template gemm_name<T>()));
    if (state_.step == 0) {
        evaluate();
    }
    double seconds = 0;
    std::int64_t tokens = 0;
    bool stopped = false;
    const train::TrainOptions& options = configuration_.train;
    while (trainer_.steps_done() < total_steps_ && !stopped) {
        const train::StepResult result = trainer_.step();
        output_.record(result);
        seconds += result.seconds;
        tokens += result.decision.tokens;
        if (!result.decision.apply) {
            output_.say(fmt::format("step {} skipped: {}", result.step,
                                    result.decision.target_tokens == 0 ? "no token of its batch is trained on"
                                                                       : "loss or gradients are not finite"));
        }
        const bool last = result.step == total_steps_;
        stopped = result.decision.stop && !last;
        if (!last && options.eval_every > 0 && result.step % options.eval_every == 0) {
            evaluate();
        }
        if (result.decision.checkpoint && !last) {
            save();
        }
    }
    if (stopped) {
        output_.say(fmt::format("stopped on request at step {} of {}; run the same command again to continue",
                                trainer_.steps_done(), total_steps_));
    } else {
        if (trainer_.steps_done() > state_.step || state_.step == 0) {
            save();
        }
        evaluate();
        train::save_adapter(output_.folder().adapter(), configuration_.output.layout_of_adapter(),
                            configuration_.model.name(), inputs_.architecture, decoder_->lora(), optimizer_,
                            runtime_.grid);
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
    const mpi::Watchdog watchdog(world, configuration.output.watchdog);
    const Runtime runtime(world, configuration.parallel, configuration.compute);
    RunOutput output(runtime, configuration.output.directory, configuration.options.settings());
    if (configuration.output.trace) {
        output.begin_trace();
    }
    const TrainInputs inputs = read_inputs(runtime, configuration);
    listen_for_stop_signals();
    return with_precision(configuration.compute.precision, [&](auto scalar) {
        return TrainRun<decltype(scalar)>(runtime, configuration, inputs, output).run();
    });
}

}  // namespace moesaic::app
