// Sizes of the expert layers that are measured.
#pragma once

#include "core/matrix.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::bench {

using core::index_t;

struct LayerShape {
    std::string name;
    index_t hidden = 0;             ///< H
    index_t intermediate = 0;       ///< I
    index_t experts = 0;            ///< E
    index_t experts_per_token = 0;  ///< K

    /// Elements of the frozen weights of one expert: gate, up and down.
    [[nodiscard]] index_t expert_parameters() const { return 3 * hidden * intermediate; }
    /// This shape with the sizes of `other` that are not 0. Throws a usage error if the experts are too few.
    [[nodiscard]] LayerShape with(const LayerShape& other) const;
};

/// The expert layers of one of the models of model/weights/synthetic.hpp. Throws a usage error that names the nearest
/// if there is none of this name.
[[nodiscard]] LayerShape layer_shape(std::string_view name);

/// The numbers of a comma-separated list, each at least 1, as core::parse_size reads them. Throws a usage error that
/// names the option `key`.
[[nodiscard]] std::vector<index_t> parse_sizes(std::string_view key, std::string_view list);

}  // namespace moesaic::bench
