#include "bench/step_run.hpp"

#include "core/random.hpp"
#include "core/random_fill.hpp"

#include <cmath>

namespace moesaic::bench {

train::Dataset random_tokens(index_t sequences, index_t length, index_t vocabulary, std::uint64_t seed) {
    train::Dataset data;
    data.name = "random tokens";
    const core::CounterRandom random(seed, 0);
    for (index_t i = 0; i < sequences * length; ++i) {
        data.tokens.push_back(static_cast<std::int32_t>(
            random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocabulary))));
    }
    data.labels = data.tokens;
    for (index_t s = 1; s <= sequences; ++s) {
        data.offsets.push_back(s * length);
    }
    return data;
}

void randomise(model::LoraParameters<float>& parameters, std::uint64_t seed) {
    std::uint64_t stream = 0;  // of each matrix its own; their order does not depend on ranks
    for (const auto& bucket : parameters.buckets) {
        for (const model::LoraTensor& tensor : bucket->tensors) {
            const bool is_a = tensor.factor == ops::LoraFactor::a;
            const double deviation = (is_a ? 1.0 : 0.3) / std::sqrt(static_cast<double>(tensor.cols));
            for (index_t m = tensor.held.begin; m < tensor.held.end(); ++m) {
                core::fill_random(
                    bucket->matrix(tensor, m, bucket->values),
                    {.cols = tensor.cols, .row_begin = tensor.row_begin(), .col_begin = tensor.col_begin()}, seed,
                    stream + static_cast<std::uint64_t>(m), deviation);
            }
            stream += static_cast<std::uint64_t>(tensor.count());
        }
    }
}

train::TrainSettings settings_of_steps(const train::BatchSettings& batches) {
    train::TrainSettings settings;
    settings.batches = batches;
    settings.batches.shuffle = false;
    settings.schedule.shape = train::ScheduleShape::constant;
    return settings;
}

}  // namespace moesaic::bench
