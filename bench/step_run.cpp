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
            const bool is_a = tensor.factor == model::LoraFactor::a;
            const double deviation = (is_a ? 1.0 : 0.3) / std::sqrt(static_cast<double>(tensor.cols));
            const core::MatrixView<float> all = bucket->view(tensor, bucket->values);
            for (index_t m = 0; m < tensor.count(); ++m) {
                core::fill_random(all.rows(m * tensor.local_rows, tensor.local_rows),
                                  {.cols = tensor.cols,
                                   .row_begin = tensor.sharding == model::Sharding::rows ? tensor.sharded_begin : 0,
                                   .col_begin = tensor.sharding == model::Sharding::columns ? tensor.sharded_begin : 0},
                                  seed, stream++, deviation);
            }
        }
    }
}

}  // namespace moesaic::bench
