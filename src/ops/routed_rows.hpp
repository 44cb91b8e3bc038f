// The order in which experts see tokens: (token, choice) pairs sorted by expert.
#pragma once

#include "core/matrix.hpp"

#include <cstdint>
#include <vector>

namespace moesaic::ops {

using core::index_t;
using core::MatrixView;

/// A row for each of the T * K choices that is one of E consecutive experts; those of the e-th expert are at
/// [first[e], first[e + 1]), within an expert by token.
struct RoutedRows {
    std::vector<index_t> first;        ///< [E + 1]
    std::vector<std::int32_t> token;   ///< [rows]: token of a row
    std::vector<std::int32_t> choice;  ///< [rows]: which of the token's K choices the row is
    std::vector<index_t> row;          ///< [T * K]: row of choice k of token t at t * K + k, or -1

    [[nodiscard]] index_t rows() const noexcept { return static_cast<index_t>(token.size()); }
    [[nodiscard]] index_t count(index_t expert) const {
        return first[static_cast<std::size_t>(expert) + 1] - first[static_cast<std::size_t>(expert)];
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return (first.size() + row.size()) * sizeof(index_t) + (token.size() + choice.size()) * sizeof(std::int32_t);
    }
    [[nodiscard]] index_t begin(index_t expert) const { return first[static_cast<std::size_t>(expert)]; }
};

/// expert_ids: [T, K]; those outside of [begin, begin + experts) get no row.
void sort_by_expert(MatrixView<const std::int32_t> expert_ids, index_t begin, index_t experts, RoutedRows& routed);

}  // namespace moesaic::ops
