// Scalar types: BF16 storage, and which type a sum over products of a given type is kept in.
#pragma once

#include <bit>
#include <cstdint>

namespace moesaic::core {

/// Brain floating point: the upper half of an IEEE binary32. Conversion from float rounds to nearest even; NaN stays
/// NaN.
class bf16 {
public:
    bf16() = default;
    explicit bf16(float value) noexcept : bits_(round(value)) {}
    explicit operator float() const noexcept { return std::bit_cast<float>(std::uint32_t{bits_} << 16U); }

    [[nodiscard]] static bf16 from_bits(std::uint16_t bits) noexcept {
        bf16 value;
        value.bits_ = bits;
        return value;
    }
    [[nodiscard]] std::uint16_t bits() const noexcept { return bits_; }

private:
    static std::uint16_t round(float value) noexcept {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        if ((bits & 0x7fffffffU) > 0x7f800000U) {
            return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);  // quiet NaN, even if the payload was low bits
        }
        return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U);
    }

    std::uint16_t bits_;
};
static_assert(sizeof(bf16) == 2);

template <class T>
struct Accumulator;
template <>
struct Accumulator<bf16> {
    using type = float;
};
template <>
struct Accumulator<std::int8_t> {
    using type = std::int32_t;
};
template <>
struct Accumulator<float> {
    using type = float;
};
template <>
struct Accumulator<double> {
    using type = double;
};

/// The type that sums, residual streams, LoRA masters and gradients are kept in when activations are of type T.
template <class T>
using accumulator_t = typename Accumulator<T>::type;

template <class T>
[[nodiscard]] accumulator_t<T> widen(T value) noexcept {
    return static_cast<accumulator_t<T>>(value);
}

}  // namespace moesaic::core
