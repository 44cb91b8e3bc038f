// moesaic train
#include "app/command.hpp"
#include "app/run_output.hpp"
#include "app/stop_signals.hpp"
#include "app/train_configuration.hpp"
#include "core/counted.hpp"
#include "core/error.hpp"
#include "io/checkpoint.hpp"
#include "measure/run_keys.hpp"
#include "model/adapters/adapted_modules.hpp"
#include "mpi/watchdog.hpp"
#include "train/grid_choice.hpp"
#include "train/runtime.hpp"
#include "train/session.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <optional>
#include <utility>

namespace moesaic::app {
namespace {

using core::ExitCode;
using train::Dataset;

/// What is known before the output folder is touched and weights are loaded.
struct TrainInputs {
    model::Architecture architecture;
    train::TrainingData data;
    mpi::GridShape grid;
    model::DecoderSettings decoder;
    train::MemoryPlan memory;
};

/// Collective. Chooses the grid and how many sequences a pass takes, and refuses what the memory can't hold.
void plan_passes(const train::Ranks& ranks, TrainConfiguration& configuration, TrainInputs& inputs) {
    const mpi::Communicator& world = ranks.world;
    model::Architecture as_stored = inputs.architecture;
    world.agree([&] { train::fit_to_checkpoint(configuration.model, as_stored); });
    const std::size_t scalar_bytes =
        kernels::with_precision(configuration.compute.precision, [](auto scalar) { return sizeof(scalar); });
    train::BatchSettings& batches = configuration.train.batches;
    train::PassPlanner planner(as_stored, configuration.decoder_settings(0),
                               train::memory_request(ranks, scalar_bytes, train::Purpose::training));
    const train::PlanOfPasses plan = [&](const train::PassChoice& choice) {
        const train::BatchSettings passes = batches.with(choice.micro_batch);
        const index_t of_grid = choice.grid.ranks();
        return planner.plan(choice, {train::largest_pass(inputs.data, passes, of_grid), passes.per_pass(of_grid)});
    };
    train::PassOptions options = {.wanted = {batches.micro_batch,
                                             configuration.decoder.activations,
                                             configuration.model.weights,
                                             {},
                                             configuration.model.share},
                                  .batch_size = batches.batch_size,
                                  .experts = as_stored.experts,
                                  .integers = configuration.model.uses_integers()};
    train::StepsToCome steps = train::steps_of(ranks);
    steps.activations = configuration.decoder.activations;
    steps.batch_size = std::min(batches.batch_size, inputs.data.train.epoch_size());
    steps.sequence_length = inputs.data.train.mean_length();
    steps.chunks = configuration.decoder.chunks;
    inputs.grid = options.wanted.grid = train::choose_grid(ranks,
                                                           {.wanted = configuration.model.settle(configuration.grid),
                                                            .architecture = as_stored,
                                                            .lora = configuration.decoder.lora,
                                                            .steps = steps,
                                                            .plan = plan,
                                                            .options = options},
                                                           configuration.compute.precision);
    const train::PassChoice choice = train::fit_passes(ranks, configuration.model.name(), plan, options);
    inputs.memory = plan(choice);
    batches.micro_batch = choice.micro_batch;
    inputs.decoder = configuration.decoder_settings(train::largest_pass(inputs.data, batches, world.size()));
}

TrainInputs read_inputs(const train::Ranks& ranks, TrainConfiguration& configuration) {
    const mpi::Communicator& world = ranks.world;
    TrainInputs inputs;
    world.agree([&] {
        inputs.architecture =
            train::read_architecture(configuration.model, configuration.grid, configuration.compute.precision);
        configuration.settle_adapters(inputs.architecture);
    });
    inputs.data = train::load_training_data(world, configuration.data, inputs.architecture.vocabulary);
    world.agree([&] { configuration.train.require_sensible(inputs.data.train.epoch_size()); });
    plan_passes(ranks, configuration, inputs);
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

nlohmann::ordered_json describe(const Dataset& data) {
    return {{"files", data.name},
            {"sequences", data.sequences()},
            {"sequences_of_epoch", data.epoch_size()},
            {"tokens", data.tokens.size()},
            {"target_tokens", data.target_tokens()},
            {"cut", data.truncated},
            {"xxh3", fmt::format("{:016x}", data.fingerprint())}};
}

std::string absolute(const std::string& path) {
    return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

/// How to stop the run with a checkpoint, for whoever watches it.
std::string way_to_stop(const mpi::Communicator& world) {
    if (world.size() == 1 || std::getenv("MOESAIC_LAUNCHER") != nullptr) {
        return "Ctrl-C stops at a checkpoint";
    }
    if (const char* job = std::getenv("SLURM_JOB_ID")) {
        return fmt::format("scancel --signal=USR1 {} stops at a checkpoint", job);
    }
    return fmt::format("kill -USR1 {} stops at a checkpoint (moesaic-run does so on Ctrl-C; mpirun kills its ranks)",
                       getppid());
}

template <class Scalar>
class TrainRun {
public:
    /// Collective. Loads the model.
    TrainRun(const train::Runtime& runtime, const TrainConfiguration& configuration, const TrainInputs& inputs,
             RunOutput& output);
    /// Collective. Trains to the end, or until a stop was requested.
    ExitCode run(const std::string& command_line);

private:
    /// Returns whether the run continues an earlier one.
    bool start_or_resume();
    void begin(const std::string& command_line, bool resumed);
    void say_what_begins();
    void say_skipped(const train::StepResult& result);
    [[nodiscard]] bool is_finished() const;
    [[nodiscard]] bool is_evaluation_due() const;
    /// Returns false if a stop was requested meanwhile.
    bool evaluate();
    void save();
    void save_adapter();
    ExitCode finish(bool stopped);

    const train::Runtime& runtime_;
    const TrainConfiguration& configuration_;
    const TrainInputs& inputs_;
    RunOutput& output_;
    train::TrainSession<Scalar> session_;
    std::vector<core::OptionSet::Setting> settings_;
    model::AdaptedModules adapted_;
    train::EvaluationHistory evaluations_;
    bool best_adapter_is_there_ = false;  ///< adapter/ is that of evaluations_.best_step
    index_t saved_step_ = -1;             ///< of the latest checkpoint
    int skipped_steps_ = 0;               ///< of this session
};

/// Shows how far loading is, and ends it on request.
std::function<void(const train::LoadProgress&)> show_loading(Progress& progress) {
    return [&progress](const train::LoadProgress& load) {
        core::require(!stop_signal_arrived(), ExitCode::stopped_for_requeue,
                      "stopped on request while the model was loaded (no step was taken); run the same command again");
        progress.show(to_text(load));
    };
}

template <class Scalar>
TrainRun<Scalar>::TrainRun(const train::Runtime& runtime, const TrainConfiguration& configuration,
                           const TrainInputs& inputs, RunOutput& output)
    : runtime_(runtime),
      configuration_(configuration),
      inputs_(inputs),
      output_(output),
      session_(train::load_model<Scalar>(runtime, inputs.architecture, configuration.model, inputs.decoder,
                                         train::Purpose::training, show_loading(output.progress())),
               inputs.data.train, configuration.train, runtime.kernels, runtime.grid,
               [&output] { return stop_signal_arrived() || output.is_silenced(); }),
      settings_(configuration.options.settings()),
      adapted_(model::adapted_modules(session_.decoder().architecture(), session_.decoder().lora().settings)) {}

template <class Scalar>
bool TrainRun<Scalar>::start_or_resume() {
    const std::string file = checkpoint_to_resume(runtime_, configuration_.output, output_.folder());
    if (file.empty()) {
        if (configuration_.init.empty()) {
            session_.start();
        } else {
            session_.start_from(configuration_.init);
        }
        return false;
    }
    session_.resume(file);
    if (configuration_.output.resume == "auto") {  // otherwise it may lie in another folder
        saved_step_ = session_.steps_done();
    }
    output_.say(fmt::format("resuming from {} at step {} of {}{}", file, session_.steps_done(), session_.total_steps(),
                            session_.steps_done() < session_.total_steps()
                                ? fmt::format(", learning rate {:.3g}", session_.learning_rate())
                                : ""));
    return true;
}

template <class Scalar>
void TrainRun<Scalar>::begin(const std::string& command_line, bool resumed) {
    const model::Architecture& architecture = session_.decoder().architecture();
    nlohmann::ordered_json data = {{"train", describe(inputs_.data.train)}};
    if (inputs_.data.eval) {
        data["eval"] = describe(*inputs_.data.eval);
    }
    const RunSpan span = {session_.steps_done(), session_.total_steps(),
                          configuration_.train.batches.steps_per_epoch(inputs_.data.train.epoch_size()), resumed};
    const RunOutput::Earlier earlier = output_.begin(
        span, {.command_line = command_line,
               .settings = settings_,
               .memory = inputs_.memory,
               .model = {{"path", absolute(configuration_.model.path)},
                         {"family", architecture.family},
                         {"layers", architecture.layers},
                         {"layers_with_experts", architecture.moe_layers()},
                         {"experts", architecture.experts},
                         {"hidden_size", architecture.hidden},
                         {"xxh3_of_samples", fmt::format("{:016x}", session_.decoder().weights_fingerprint())}},
               .lora = {{"adapted", describe(adapted_)},
                        {"parameters", adapted_.parameters},
                        {"percent_of_model", 100 * adapted_.parameters / adapted_.model_parameters},
                        {"init", absolute(configuration_.init)}},
               .data = data});
    evaluations_ = earlier.evaluations;
    best_adapter_is_there_ = earlier.best_adapter_is_there;
}

template <class Scalar>
void TrainRun<Scalar>::say_what_begins() {
    for (const Dataset* data : {&inputs_.data.train, inputs_.data.eval ? &*inputs_.data.eval : nullptr}) {
        if (data != nullptr) {
            output_.say(data->summary());
            train::print_warnings(runtime_.world, data->warnings(inputs_.architecture.positions));
        }
    }
    const train::TrainSettings& train = configuration_.train;
    if (train.steps > 0 && train.epochs != train::TrainSettings().epochs) {
        output_.say(fmt::format("note: train.steps = {} decides how long the run is, not train.epochs = {}",
                                train.steps, train.epochs));
    }
    output_.say("adapted: " + describe(adapted_));
    output_.say(fmt::format("{}, passes of up to {}, {}; {}", core::counted(session_.total_steps(), "step"),
                            core::counted(inputs_.decoder.max_tokens, "token"),
                            runtime_.kernels.template gemm_name<Scalar>(), way_to_stop(runtime_.world)));
}

template <class Scalar>
void TrainRun<Scalar>::say_skipped(const train::StepResult& result) {
    constexpr int most = 10;
    if (++skipped_steps_ <= most) {
        output_.say(fmt::format("step {} skipped: {}{}", result.step,
                                result.decision.target_tokens == 0 ? "no token of its batch is trained on"
                                                                   : "loss or gradients are not finite",
                                skipped_steps_ == most ? "; metrics.jsonl has the further ones" : ""));
    }
}

template <class Scalar>
bool TrainRun<Scalar>::is_finished() const {
    const index_t patience = configuration_.train.patience;
    return session_.steps_done() >= session_.total_steps() || (patience > 0 && evaluations_.without_gain >= patience);
}

template <class Scalar>
bool TrainRun<Scalar>::is_evaluation_due() const {
    const index_t step = session_.steps_done();
    const index_t every = configuration_.train.eval_every;
    return inputs_.data.eval && step != evaluations_.last_step &&
           (step == 0 || step >= session_.total_steps() || (every > 0 && step % every == 0));
}

template <class Scalar>
bool TrainRun<Scalar>::evaluate() {
    const Dataset& data = *inputs_.data.eval;
    const index_t step = session_.steps_done();
    const train::Evaluation evaluation = session_.evaluate(data, [&](index_t done) {
        output_.progress().show_briefly(fmt::format("evaluating {}/{}", done, data.sequences()));
        return !stop_signal_arrived() && !output_.is_silenced();
    });
    if (!evaluation.complete) {
        return false;
    }
    if (!std::isfinite(evaluation.loss())) {
        if (step > 0) {
            save();
        }
        core::fail(ExitCode::runtime_failure, "the loss of {} at step {} is not finite ({}); {}", data.name, step,
                   evaluation.loss(),
                   step == 0 ? "check the weights, or try compute.precision = fp32" : "use a lower train.lr");
    }
    evaluations_.add(step, evaluation.loss());
    if (configuration_.output.keep_best && evaluations_.best_step == step && step > 0) {
        save_adapter();  // first: a run that is killed in between evaluates again
        best_adapter_is_there_ = true;
    }
    output_.record(step, evaluation);
    return !session_.stop_requested();
}

template <class Scalar>
void TrainRun<Scalar>::save() {
    if (saved_step_ != session_.steps_done()) {
        output_.progress().show_briefly(fmt::format("writing the checkpoint of step {}", session_.steps_done()));
        session_.save_checkpoint(output_.folder().checkpoints(),
                                 static_cast<int>(configuration_.output.checkpoint_keep), settings_);
        saved_step_ = session_.steps_done();
    }
}

template <class Scalar>
void TrainRun<Scalar>::save_adapter() {
    session_.store().save(
        output_.folder().adapter(), configuration_.output.adapter_layout,
        configuration_.model.synthetic.empty() ? absolute(configuration_.model.path) : configuration_.model.synthetic,
        inputs_.architecture, session_.steps_done());
}

template <class Scalar>
ExitCode TrainRun<Scalar>::finish(bool stopped) {
    save();
    runtime_.world.agree([&] {
        core::require(stopped || session_.updates() > 0, ExitCode::runtime_failure,
                      "{} did not change the adapter (loss or gradients were not finite, or no token was trained on); "
                      "check data and weights, or lower train.lr, and train anew with output.resume = never",
                      core::counted(session_.steps_done(), "step"));
    });
    const bool best_is_kept = configuration_.output.keep_best && best_adapter_is_there_;
    if (!best_is_kept) {
        save_adapter();
    }
    const index_t step = session_.steps_done();
    const index_t adapter_step = best_is_kept ? evaluations_.best_step : step;
    const double rate = output_.finish(stopped ? measure::run_keys::end_stopped : measure::run_keys::end_complete, step,
                                       adapter_step, evaluations_);
    if (stopped) {
        output_.say(fmt::format("stopped on request at step {} of {}; run the same command again to continue", step,
                                session_.total_steps()));
    } else if (step < session_.total_steps()) {
        output_.say(fmt::format("ended at step {} of {}: {} without a lower loss (train.patience)", step,
                                session_.total_steps(), core::counted(evaluations_.without_gain, "evaluation")));
    }
    if (const index_t skipped = step - session_.updates(); skipped > 0) {
        output_.say(fmt::format("warning: skipped {} of {}", skipped, core::counted(step, "step")));
    }
    output_.say(fmt::format("results are in {}; its adapter is that of step {}{}", output_.folder().path.string(),
                            adapter_step,
                            best_is_kept ? fmt::format(", eval loss {:.4f}", evaluations_.best_loss) : ""));
    output_.say(fmt::format("FOM train_tokens_per_second = {:.1f} tokens/s", rate));
    return stopped ? ExitCode::stopped_for_requeue : ExitCode::success;
}

template <class Scalar>
ExitCode TrainRun<Scalar>::run(const std::string& command_line) {
    const bool resumed = start_or_resume();
    if (resumed && output_.was_completed(settings_, session_.steps_done() < session_.total_steps())) {
        output_.say(
            "that run is complete: nothing is left to train; to train anew choose another output.dir, or set "
            "output.resume = never");
        return ExitCode::success;
    }
    begin(command_line, resumed);
    say_what_begins();
    bool stopped = false;
    for (;;) {
        if (!stopped && is_evaluation_due()) {
            stopped = !evaluate();
        }
        if (stopped || is_finished()) {
            break;
        }
        const train::StepResult result = session_.step();
        output_.record(result);
        if (!result.decision.apply) {
            say_skipped(result);
        }
        stopped = result.decision.stop;
        if (result.decision.checkpoint) {
            save();
            stopped = stopped || session_.stop_requested();
        }
    }
    return finish(stopped);
}

/// The command as a shell would take it again.
std::string to_command_line(Arguments arguments) {
    std::string text = "moesaic train";
    for (const std::string& argument : arguments) {
        const bool plain = argument.find_first_not_of(
                               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "-_./=,:+@%") == std::string::npos;
        std::string quoted;
        for (const char c : argument) {
            quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
        }
        text += plain && !argument.empty() ? " " + argument : " '" + quoted + "'";
    }
    return text;
}

}  // namespace

ExitCode run_train(const mpi::Communicator& world, Arguments arguments) {
    TrainConfiguration configuration;
    configuration.options.need({"output.dir"});
    configuration.options.need({"model.path", "model.synthetic"});
    configuration.options.need({"data.train"});
    if (!parse_options_only(world, "train", configuration.options, arguments)) {
        return ExitCode::success;
    }
    const mpi::Watchdog watchdog(world, configuration.watchdog.limit_seconds);
    const train::Ranks ranks(world, configuration.place, configuration.compute);
    const TrainInputs inputs = read_inputs(ranks, configuration);
    const train::Runtime runtime(ranks, inputs.grid);
    RunOutput output(runtime, configuration.output);
    ExitCode code = ExitCode::success;
    try {
        code = kernels::with_precision(configuration.compute.precision, [&](auto scalar) {
            return TrainRun<decltype(scalar)>(runtime, configuration, inputs, output).run(to_command_line(arguments));
        });
    } catch (const mpi::AgreedError&) {
        output.withdraw();
        throw;
    }
    output.withdraw();
    if (output.is_silenced() && !stop_signal_arrived()) {
        throw core::Error(*output.progress().error());
    }
    return code;
}

}  // namespace moesaic::app
