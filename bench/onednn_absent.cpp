// Stands in for onednn.cpp where oneDNN is not installed.
#include "bench/onednn.hpp"

namespace moesaic::bench {

std::string onednn_version() {
    return "no oneDNN";
}

std::unique_ptr<OneDnnProduct> make_onednn_product(core::MatrixView<const core::bf16>,
                                                   std::span<const core::Matrix<core::bf16>>, core::MatrixView<float>) {
    return nullptr;
}

}  // namespace moesaic::bench
