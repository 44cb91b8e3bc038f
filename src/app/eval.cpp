// moesaic eval
#include "app/command.hpp"
#include "app/runtime.hpp"
#include "core/error.hpp"
#include "mpi/watchdog.hpp"
#include "train/adapter.hpp"
#include "train/options.hpp"
#include "train/trainer.hpp"

#include <fmt/format.h>

#include <cmath>

namespace moesaic::app {
namespace {

using core::ExitCode;

struct EvalConfiguration {
    train::ModelOptions model;
    std::string adapter;
    train::DataOptions data;
    train::TrainOptions train;
    train::ParallelOptions parallel;
    train::ComputeOptions compute;
    train::OutputOptions output;
    core::OptionSet options;

    EvalConfiguration() {
        model.declare(options);
        options.add("lora.init", adapter, "folder of a PEFT adapter to evaluate with; without it the model alone");
        data.declare_eval(options);
        train.declare_batch_size(options);
        parallel.declare(options);
        parallel.declare_chunks(options);
        compute.declare(options);
        output.declare_watchdog(options);
    }
};

template <class T>
train::Evaluation evaluate(const Runtime& runtime, const EvalConfiguration& configuration) {
    const model::Architecture architecture = read_architecture(runtime, configuration.model);
    runtime.world.agree([&] { require_set("data.eval", configuration.data.eval); });
    const train::Dataset data = train::load_dataset(runtime.world, configuration.data.eval, architecture.vocabulary,
                                                    configuration.data.max_length);
    model::LoraSettings lora;
    lora.rank = 0;
    runtime.world.agree([&] {
        if (!configuration.adapter.empty()) {
            lora = train::read_adapter_settings(configuration.adapter, architecture);
        }
    });
    const auto decoder = load_model<T>(
        runtime, architecture, configuration.model,
        {.lora = lora, .max_tokens = data.largest_sum(configuration.train.batch_size), .chunks = runtime.chunks},
        Purpose::evaluation);
    runtime.world.agree([&] {
        if (!configuration.adapter.empty()) {
            train::load_adapter(configuration.adapter, architecture, decoder->lora());
            decoder->update_lora();
        }
    });
    return train::evaluate<T>(*decoder, runtime.kernels, runtime.grid, data, configuration.train.batch_size);
}

}  // namespace

ExitCode run_eval(const mpi::Communicator& world, Arguments arguments) {
    EvalConfiguration configuration;
    if (!parse_options_only(world, "eval", configuration.options, arguments)) {
        return ExitCode::success;
    }
    const mpi::Watchdog watchdog(world, configuration.output.watchdog);
    const Runtime runtime(world, configuration.parallel, configuration.compute);
    const train::Evaluation result = with_precision(configuration.compute.precision, [&](auto scalar) {
        return evaluate<decltype(scalar)>(runtime, configuration);
    });
    print(world, fmt::format("{}: {} sequences, {} target tokens\n", configuration.data.eval, result.sequences,
                             result.target_tokens));
    print(world, fmt::format("FOM eval_loss = {:.6f} nats/token\n", result.loss()));
    print(world, fmt::format("FOM eval_perplexity = {:.4f} -\n", std::exp(result.loss())));
    print(world, fmt::format("FOM eval_exact = {:.2f} percent\n", result.exact_percent()));
    return ExitCode::success;
}

}  // namespace moesaic::app
