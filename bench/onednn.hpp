// oneDNN as the yardstick of matrix products, where the program was built with it.
#pragma once

#include "core/matrix.hpp"
#include "core/scalar.hpp"

#include <memory>
#include <span>
#include <string>

namespace moesaic::bench {

using core::index_t;

/// C = A W^T with A [m, k] and one of several weights W [n, k], which are packed once in the format that oneDNN
/// prefers.
class OneDnnProduct {
public:
    virtual ~OneDnnProduct() = default;
    virtual void run(std::size_t weight) = 0;
    /// The kernel that oneDNN chose.
    [[nodiscard]] virtual std::string implementation() const = 0;
};

/// Name and version, or that there is none.
[[nodiscard]] std::string onednn_version();

/// Null if the program was built without oneDNN, or if oneDNN has no BF16 product for this machine. Views must outlive
/// the result.
[[nodiscard]] std::unique_ptr<OneDnnProduct> make_onednn_product(core::MatrixView<const core::bf16> a,
                                                                 std::span<const core::Matrix<core::bf16>> weights,
                                                                 core::MatrixView<float> c);

}  // namespace moesaic::bench
