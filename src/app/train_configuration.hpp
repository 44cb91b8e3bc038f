// The options of a training run, for the commands that need all of them.
#pragma once

#include "app/run_output.hpp"
#include "mpi/watchdog.hpp"
#include "ops/activations_option.hpp"
#include "ops/arithmetic_option.hpp"
#include "train/adapter_store.hpp"
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
    mpi::GridSettings grid;
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
        data.declare(options);
        train.batches.declare_order(options);
        decoder.lora.declare(options);
        options.add_path("lora.init", init,
                         "folder of a PEFT adapter to start from; it decides what is adapted and how");
        train.declare(options);
        ops::declare_activations(options, "train.activations", decoder.activations);
        compute.declare(options);
        ops::declare_arithmetic(options, model.arithmetic);
        grid.declare(options);
        place.declare(options);
        decoder.declare_chunks(options);
        output.declare(options);
        train.coordinator.declare_times(options);
        watchdog.declare(options);
    }

    /// Makes the options of adapters those of the adapter in lora.init, which decides; afterwards they are what is
    /// trained with, and what is written into results. Throws a usage error where they mean nothing for the model.
    void settle_adapters(const model::Architecture& architecture) {
        decoder.lora = train::settings_to_start_from(init, architecture, decoder.lora, options);
        decoder.lora.dropout_seed = static_cast<std::uint64_t>(train.seed);
    }

    /// What the decoder is built for, with passes of so many tokens of all ranks.
    [[nodiscard]] model::DecoderSettings decoder_settings(index_t max_tokens) const {
        model::DecoderSettings settings = decoder;
        settings.max_tokens = max_tokens;
        settings.keep_probabilities = train.router_aux_coefficient > 0;
        return settings;
    }
};

}  // namespace moesaic::app
