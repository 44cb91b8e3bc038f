// What training steps on random tokens are made from.
#pragma once

#include "model/adapters/lora_parameters.hpp"
#include "train/dataset.hpp"
#include "train/train_settings.hpp"

#include <cstdint>

namespace moesaic::bench {

using core::index_t;

/// `sequences` sequences of `length` random tokens, all of which are trained on.
[[nodiscard]] train::Dataset random_tokens(index_t sequences, index_t length, index_t vocabulary, std::uint64_t seed);

/// Random factors, B far from zero, unlike at the start of training: otherwise dA would vanish. BF16 values; the same
/// at any rank count.
void randomise(model::LoraParameters<float>& parameters, std::uint64_t seed);

/// Settings with a constant learning rate, and sequences in their order.
[[nodiscard]] train::TrainSettings settings_of_steps(const train::BatchSettings& batches);

}  // namespace moesaic::bench
