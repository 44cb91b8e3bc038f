// How a dimension is cut into nearly equal contiguous parts.
#pragma once

#include "core/matrix.hpp"

namespace moesaic::core {

/// A contiguous part of a dimension.
struct Slice {
    index_t begin = 0;
    index_t extent = 0;

    [[nodiscard]] index_t end() const noexcept { return begin + extent; }
    [[nodiscard]] bool contains(index_t index) const noexcept { return index >= begin && index < end(); }
};

/// Part `index` of `parts` nearly equal parts of [0, size).
[[nodiscard]] constexpr Slice slice_of(index_t size, index_t index, index_t parts) {
    const index_t begin = size * index / parts;
    return {begin, size * (index + 1) / parts - begin};
}

}  // namespace moesaic::core
