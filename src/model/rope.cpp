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
void RotaryTable<A>::apply(const ElementwiseKernels<A>& kernels, std::span<A> heads, index_t position,
                           A direction) const {
    const index_t half = head_size_ / 2;
    const A* cosine = cosines_.data() + position * half;
    const A* sine = sines_.data() + position * half;
    for (std::size_t begin = 0; begin < heads.size(); begin += static_cast<std::size_t>(head_size_)) {
        kernels.rotate(half, cosine, sine, direction, heads.data() + begin);
    }
}

template class RotaryTable<float>;
template class RotaryTable<double>;

}  // namespace moesaic::model
