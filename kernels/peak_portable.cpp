// Multiply-adds in plain C++: what the compiler makes of them for the CPU that the program is built for.
#include "kernels/detail/peak_loop.hpp"

namespace moesaic::kernels::detail {

float portable_peak(std::int64_t rounds) {
    constexpr int lanes = 4;
    constexpr int sums = 12;  // with two operands they fill most of the 16 registers and hide the latency
    using Vector = float __attribute__((vector_size(lanes * sizeof(float))));
    Vector sum[sums];
    for (int i = 0; i < sums; ++i) {
        sum[i] = Vector{} + 0.001F * static_cast<float>(i);  // all different: equal sums may be computed once
    }
    const Vector a = Vector{} + 0.999F;
    const Vector b = Vector{} + 1.001F;
    for (std::int64_t round = 0; round < rounds; ++round) {
        for (Vector& s : sum) {
            s = s * a + b;
        }
    }
    for (int i = 1; i < sums; ++i) {
        sum[0] += sum[i];
    }
    return sum[0][0];
}

float portable_read(const float* data, std::int64_t count) {
    constexpr int lanes = 16;
    float sum[lanes] = {};
    for (std::int64_t i = 0; i + lanes <= count; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            sum[lane] += data[i + lane];
        }
    }
    for (int lane = 1; lane < lanes; ++lane) {
        sum[0] += sum[lane];
    }
    return sum[0];
}

}  // namespace moesaic::kernels::detail
