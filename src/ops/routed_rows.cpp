#include "ops/routed_rows.hpp"

#include <numeric>

namespace moesaic::ops {

void sort_by_expert(MatrixView<const std::int32_t> expert_ids, index_t begin, index_t experts, RoutedRows& routed) {
    routed.first.assign(static_cast<std::size_t>(experts) + 1, 0);
    const auto is_one = [&](std::int32_t expert) { return expert >= begin && expert < begin + experts; };
    for (index_t t = 0; t < expert_ids.rows(); ++t) {
        for (const std::int32_t expert : expert_ids.row(t)) {
            if (is_one(expert)) {
                ++routed.first[static_cast<std::size_t>(expert - begin) + 1];
            }
        }
    }
    std::partial_sum(routed.first.begin(), routed.first.end(), routed.first.begin());
    routed.token.resize(static_cast<std::size_t>(routed.first.back()));
    routed.choice.resize(routed.token.size());
    routed.row.assign(static_cast<std::size_t>(expert_ids.rows() * expert_ids.cols()), -1);
    std::vector<index_t> next(routed.first.begin(), routed.first.end() - 1);
    for (index_t t = 0; t < expert_ids.rows(); ++t) {
        for (index_t k = 0; k < expert_ids.cols(); ++k) {
            if (!is_one(expert_ids(t, k))) {
                continue;
            }
            const index_t row = next[static_cast<std::size_t>(expert_ids(t, k) - begin)]++;
            routed.token[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(t);
            routed.choice[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(k);
            routed.row[static_cast<std::size_t>(t * expert_ids.cols() + k)] = row;
        }
    }
}

}  // namespace moesaic::ops
