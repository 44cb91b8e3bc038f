// Training steps on random tokens: what the trainer needs, put together for benchmarks.
#pragma once

#include "train/trainer.hpp"

namespace moesaic::bench {

using core::index_t;

/// `sequences` sequences of `length` random tokens, all of which are trained on.
[[nodiscard]] train::Dataset random_tokens(index_t sequences, index_t length, index_t vocabulary, std::uint64_t seed);

/// Random factors, B far from zero, unlike at the start of training: otherwise dA would vanish. BF16 values; the same
/// at any rank count.
void randomise(model::LoraParameters<float>& parameters, std::uint64_t seed);

/// The parts of a training run with constant settings. Collective to construct; all arguments must outlive the object.
template <class T>
struct StepRun {
    StepRun(model::Decoder<T>& decoder, const kernels::KernelSet& kernels, const mpi::ProcessGrid& grid,
            const train::Dataset& data, const train::BatchSettings& settings)
        : optimizer(decoder.lora(), kernels, grid, train::AdamWSettings{}),
          coordinator(grid.world(), {}),
          batches(data, settings, 0, grid.world().rank(), grid.world().size()),
          trainer({decoder, kernels, grid, optimizer, coordinator, batches,
                   train::Schedule{.shape = train::ScheduleShape::constant}, [] { return false; }}) {}
    StepRun(const StepRun&) = delete;  // the trainer refers to the other members
    StepRun& operator=(const StepRun&) = delete;

    train::ShardedAdamW optimizer;
    train::GradientCoordinator coordinator;
    train::Batches batches;
    train::Trainer<T> trainer;
};

}  // namespace moesaic::bench
