// moesaic eval
#include "app/command.hpp"
#include "core/error.hpp"
#include "mpi/watchdog.hpp"
#include "train/adapter_store.hpp"
#include "train/batches.hpp"
#include "train/evaluation.hpp"
#include "train/runtime.hpp"

#include <fmt/format.h>

#include <cmath>

namespace moesaic::app {
namespace {

using core::ExitCode;

struct EvalConfiguration {
    train::ModelSettings model;
    std::string adapter;
    train::DataSettings data;
    train::BatchSettings batches;
    mpi::GridShape grid;
    mpi::PlaceSettings place;
    model::DecoderSettings decoder;
    kernels::ComputeSettings compute;
    mpi::WatchdogSettings watchdog;
    core::OptionSet options;

    EvalConfiguration() {
        model.declare(options);
        options.add("lora.init", adapter, "folder of a PEFT adapter to evaluate with; without it the model alone");
        data.declare_eval(options);
        batches.declare_batch_size(options);
        grid.declare(options);
        place.declare(options);
        decoder.declare_chunks(options);
        compute.declare(options);
        watchdog.declare(options);
    }
};

template <class Scalar>
train::Evaluation evaluate(const train::Runtime& runtime, const EvalConfiguration& configuration) {
    const model::Architecture architecture = train::read_architecture(runtime, configuration.model);
    runtime.world.agree([&] { core::require_set("data.eval", configuration.data.eval); });
    const train::Dataset data = train::load_dataset(runtime.world, configuration.data.eval, architecture.vocabulary,
                                                    configuration.data.max_length);
    model::DecoderSettings settings = configuration.decoder;
    settings.max_tokens = data.largest_sum(configuration.batches.batch_size);
    settings.lora.rank = 0;
    runtime.world.agree([&] {
        if (!configuration.adapter.empty()) {
            settings.lora = train::read_adapter_settings(configuration.adapter, architecture);
        }
    });
    const auto decoder =
        train::load_model<Scalar>(runtime, architecture, configuration.model, settings, train::Purpose::evaluation);
    runtime.world.agree([&] {
        if (!configuration.adapter.empty()) {
            train::AdapterStore(decoder->lora(), runtime.grid).load(configuration.adapter, architecture);
            decoder->update_lora();
        }
    });
    return train::evaluate<Scalar>(*decoder, runtime.kernels, runtime.grid, data, configuration.batches.batch_size);
}

}  // namespace

ExitCode run_eval(const mpi::Communicator& world, Arguments arguments) {
    EvalConfiguration configuration;
    if (!parse_options_only(world, "eval", configuration.options, arguments)) {
        return ExitCode::success;
    }
    const mpi::Watchdog watchdog(world, configuration.watchdog.limit_seconds);
    const train::Runtime runtime(world, configuration.place, configuration.grid, configuration.compute);
    const train::Evaluation result = kernels::with_precision(configuration.compute.precision, [&](auto scalar) {
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
