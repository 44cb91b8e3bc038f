#include "model/rope.hpp"

#include <cmath>

namespace moesaic::model {

template <class A>
void RotaryTable<A>::extend(index_t positions) {
    const index_t half = head_size_ / 2;
    for (; positions_ < positions; ++positions_) {
        for (index_t i = 0; i < half; ++i) {
            // The inverse frequency is rounded to A as the reference implementation keeps it.
            const A frequency =
                static_cast<A>(1.0 / std::pow(theta_, 2.0 * static_cast<double>(i) / static_cast<double>(head_size_)));
            const A angle = static_cast<A>(positions_) * frequency;
            cosines_.push_back(std::cos(angle));
            sines_.push_back(std::sin(angle));
        }
    }
}

template <class A>
void RotaryTable<A>::apply(MatrixView<A> heads, std::span<const index_t> positions, A direction) const {
    const index_t half = head_size_ / 2;
#pragma omp parallel for schedule(static)
    for (index_t row = 0; row < heads.rows(); ++row) {
        const index_t position = positions[static_cast<std::size_t>(row)];
        const A* cosine = cosines_.data() + position * half;
        const A* sine = sines_.data() + position * half;
        for (A* head = heads[row]; head < heads[row] + heads.cols(); head += head_size_) {
            for (index_t i = 0; i < half; ++i) {
                const A first = head[i];
                const A second = head[i + half];
                head[i] = first * cosine[i] - direction * second * sine[i];
                head[i + half] = second * cosine[i] + direction * first * sine[i];
            }
        }
    }
}

template class RotaryTable<float>;
template class RotaryTable<double>;

}  // namespace moesaic::model
