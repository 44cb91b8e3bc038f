#include "model/routed_rows.hpp"

#include <numeric>

namespace moesaic::model {

void sort_by_expert(MatrixView<const std::int32_t> expert_ids, index_t experts, RoutedRows& routed) {
    const auto rows = static_cast<std::size_t>(expert_ids.rows() * expert_ids.cols());
    routed.first.assign(static_cast<std::size_t>(experts) + 1, 0);
    routed.token.resize(rows);
    routed.choice.resize(rows);
    routed.row.resize(rows);
    for (index_t t = 0; t < expert_ids.rows(); ++t) {
        for (const std::int32_t expert : expert_ids.row(t)) {
            ++routed.first[static_cast<std::size_t>(expert) + 1];
        }
    }
    std::partial_sum(routed.first.begin(), routed.first.end(), routed.first.begin());
    std::vector<index_t> next(routed.first.begin(), routed.first.end() - 1);
    for (index_t t = 0; t < expert_ids.rows(); ++t) {
        for (index_t k = 0; k < expert_ids.cols(); ++k) {
            const index_t row = next[static_cast<std::size_t>(expert_ids(t, k))]++;
            routed.token[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(t);
            routed.choice[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(k);
            routed.row[static_cast<std::size_t>(t * expert_ids.cols() + k)] = row;
        }
    }
}

}  // namespace moesaic::model
