#include "ops/token_batch.hpp"

namespace moesaic::ops {

std::vector<Target> targets_of(const TokenBatch& batch) {
    std::vector<Target> targets;
    for (index_t s = 0; s < batch.sequences(); ++s) {
        const index_t end = batch.offsets[static_cast<std::size_t>(s) + 1];
        for (index_t row = batch.offsets[static_cast<std::size_t>(s)]; row + 1 < end; ++row) {
            const std::int32_t label = batch.labels[static_cast<std::size_t>(row) + 1];
            if (label != ignored_label) {
                targets.push_back({row, s, label});
            }
        }
    }
    return targets;
}

}  // namespace moesaic::ops
