#include "ops/token_batch.hpp"

namespace moesaic::ops {

std::vector<std::uint64_t> identities_of(const TokenBatch& batch) {
    std::vector<std::uint64_t> tokens;
    for (index_t s = 0; s < batch.sequences(); ++s) {
        const auto number = static_cast<std::size_t>(s);
        const index_t sequence = batch.sequence_ids.empty() ? s : batch.sequence_ids[number];
        for (index_t row = batch.offsets[number]; row < batch.offsets[number + 1]; ++row) {
            const auto position = static_cast<std::uint64_t>(batch.positions[static_cast<std::size_t>(row)]);
            tokens.push_back(static_cast<std::uint64_t>(sequence) << 32U | position);
        }
    }
    return tokens;
}

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
