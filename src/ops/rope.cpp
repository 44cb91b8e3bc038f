#include "ops/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::ops {
namespace {

/// The element that makes `rotations` full turns over the trained positions, as a real number.
double element_of(const RopeSettings& rope, double rotations) {
    const double wavelength = static_cast<double>(rope.trained_positions) / (rotations * 2 * std::numbers::pi);
    return static_cast<double>(rope.size) * std::log(wavelength) / (2 * std::log(rope.theta));
}

/// Elements below the ramp keep their frequency, those above it have it divided by the factor.
void interpolate_yarn(const RopeSettings& rope, std::vector<double>& frequencies) {
    double low = element_of(rope, rope.beta_fast);
    double high = element_of(rope, rope.beta_slow);
    if (rope.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(rope.size - 1));
    if (low == high) {
        high += 0.001;
    }
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequencies[i] *= ramp / rope.factor + (1 - ramp);
    }
}

/// Long waves are stretched by the factor, short ones are not, those between partly.
void interpolate_llama3(const RopeSettings& rope, std::vector<double>& frequencies) {
    for (double& frequency : frequencies) {
        const double turns = static_cast<double>(rope.trained_positions) * frequency / (2 * std::numbers::pi);
        const double kept = std::clamp(
            (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor), 0.0, 1.0);
        frequency *= (1 - kept) / rope.factor + kept;
    }
}

}  // namespace

std::vector<double> rope_frequencies(const RopeSettings& rope, index_t longest) {
    const auto size = static_cast<double>(rope.size);
    double theta = rope.theta;
    if (rope.type == RopeType::dynamic && longest > rope.trained_positions && rope.size > 2) {
        const double stretch = static_cast<double>(longest) / static_cast<double>(rope.trained_positions);
        theta *= std::pow(rope.factor * stretch - (rope.factor - 1), size / (size - 2));
    }
    std::vector<double> frequencies(static_cast<std::size_t>(rope.size / 2));
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / size);
        if (rope.type == RopeType::linear) {
            frequencies[i] /= rope.factor;
        }
    }
    if (rope.type == RopeType::yarn) {
        interpolate_yarn(rope, frequencies);
    } else if (rope.type == RopeType::llama3) {
        interpolate_llama3(rope, frequencies);
    }
    return frequencies;
}

template <class Sum>
void RotaryTable<Sum>::extend(index_t longest) {
    if (frequencies_.empty() || (is_dynamic() && longest != longest_)) {
        // Frequencies are rounded to Sum as the reference implementation keeps them.
        const std::vector<double> frequencies = rope_frequencies(settings_, longest);
        frequencies_.resize(frequencies.size());
        std::transform(frequencies.begin(), frequencies.end(), frequencies_.begin(),
                       [](double frequency) { return static_cast<Sum>(frequency); });
        longest_ = longest;
        positions_ = 0;
        cosines_.clear();
        sines_.clear();
    }
    const auto attention_factor = static_cast<Sum>(settings_.attention_factor);
    for (; positions_ < longest; ++positions_) {
        for (const Sum frequency : frequencies_) {
            const Sum angle = static_cast<Sum>(positions_) * frequency;
            cosines_.push_back(std::cos(angle) * attention_factor);
            sines_.push_back(std::sin(angle) * attention_factor);
        }
    }
}

template <class Sum>
void RotaryTable<Sum>::apply(const ElementwiseKernels<Sum>& kernels, const RotaryRange& rotary, std::span<Sum> heads,
                             index_t position, Sum direction) const {
    const index_t half = settings_.size / 2;
    const Sum* const cosine = cosines_.data() + position * half;
    const Sum* const sine = sines_.data() + position * half;
    for (index_t begin = rotary.begin; begin < static_cast<index_t>(heads.size()); begin += rotary.head_size) {
        Sum* const head = heads.data() + begin;
        if (!settings_.interleaved) {
            kernels.rotate(half, cosine, sine, direction, head);
            continue;
        }
        for (index_t i = 0; i < half; ++i) {
            const Sum first = head[2 * i];
            const Sum second = head[2 * i + 1];
            const Sum turned = direction * sine[i];
            head[2 * i] = first * cosine[i] - second * turned;
            head[2 * i + 1] = second * cosine[i] + first * turned;
        }
    }
}

template class RotaryTable<float>;
template class RotaryTable<double>;

}  // namespace moesaic::ops
