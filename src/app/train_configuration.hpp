// The options of a training run, for the commands that need all of them.
#pragma once

#include "train/options.hpp"

namespace moesaic::app {

struct TrainConfiguration {
    train::ModelOptions model;
    train::LoraOptions lora;
    train::DataOptions data;
    train::TrainOptions train;
    train::ParallelOptions parallel;
    train::ComputeOptions compute;
    train::OutputOptions output;
    core::OptionSet options;

    TrainConfiguration() {
        model.declare(options);
        lora.declare(options);
        data.declare_train(options);
        data.declare_eval(options);
        train.declare(options);
        parallel.declare(options);
        parallel.declare_chunks(options);
        compute.declare(options);
        output.declare(options);
    }

    [[nodiscard]] train::BatchSettings batches() const { return train.batches(data.shuffle); }
};

}  // namespace moesaic::app
