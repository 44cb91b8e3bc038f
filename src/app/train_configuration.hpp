// The options of a training run, for the commands that need all of them.
#pragma once

#include "app/run_output.hpp"
#include "mpi/watchdog.hpp"
#include "ops/activations_option.hpp"
#include "train/dataset.hpp"
#include "train/runtime.hpp"
#include "train/train_settings.hpp"

#include <functional>

namespace moesaic::app {

struct TrainConfiguration {
    train::ModelSettings model;
    model::DecoderSettings decoder;
    std::string init;  ///< folder of an adapter to start from, or empty
    train::DataSettings data;
    train::TrainSettings train;
    mpi::GridShape grid;
    mpi::PlaceSettings place;
    kernels::ComputeSettings compute;
    OutputSettings output;
    mpi::WatchdogSettings watchdog;
    core::OptionSet options;

    /// `declare_first` adds options of a command that have no section.
    explicit TrainConfiguration(const std::function<void(core::OptionSet&)>& declare_first = {}) {
        if (declare_first) {
            declare_first(options);
        }
        model.declare(options);
        decoder.lora.declare(options);
        options.add("lora.init", init, "folder of a PEFT adapter to start from; it decides what is adapted and how");
        data.declare_train(options);
        train.batches.declare_order(options);
        data.declare_eval(options);
        train.declare(options);
        ops::declare_activations(options, "train.activations", decoder.activations);
        grid.declare(options);
        place.declare(options);
        decoder.declare_chunks(options);
        compute.declare(options);
        output.declare(options);
        watchdog.declare(options);
        train.coordinator.declare_times(options);
    }

    /// What the decoder is built for, with these adapters and passes of so many tokens of all ranks.
    [[nodiscard]] model::DecoderSettings decoder_settings(const model::LoraSettings& lora, index_t max_tokens) const {
        model::DecoderSettings settings = decoder;
        settings.lora = lora;
        settings.max_tokens = max_tokens;
        settings.keep_probabilities = train.router_aux_coefficient > 0;
        return settings;
    }
};

}  // namespace moesaic::app
