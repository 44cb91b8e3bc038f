// Buffers before there are any: what the memory of a run is computed from. Whoever owns buffers lists them in a
// function beside them.
#pragma once

#include "core/scalar.hpp"
#include "kernels/kernel_set.hpp"
#include "ops/blocks.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

namespace moesaic::ops {

/// What the size of a buffer grows with. Routed rows are the choices of arrived rows that are experts of this rank.
enum class Rows : std::uint8_t {
    once,           ///< nothing
    own,            ///< rows of this rank in a pass
    targets,        ///< rows whose logits are computed together
    sent,           ///< copies of its rows, one for each tensor group that they go to
    arrived,        ///< rows that its tensor group works on
    received,       ///< those of them that came to this rank
    routed,         ///< routed rows
    strips,         ///< the same, filled up to whole blocks of rows for every expert
    threads,        ///< threads
    thread_strips,  ///< rows that all threads together work on at a time
};
inline constexpr std::size_t kinds_of_rows = static_cast<std::size_t>(Rows::thread_strips) + 1;

/// What a buffer holds.
enum class Element : std::uint8_t {
    scalar,      ///< activations
    sum,         ///< their sums
    narrow,      ///< activations rounded from sums: nothing where both are of one type
    one_part,    ///< activations that are kept because operands have one part, otherwise nothing
    exact,       ///< sums that are kept because operands have two parts, otherwise nothing
    parts,       ///< both parts of an operand that has two, otherwise nothing
    packed,      ///< operands as kernels read them
    packed_low,  ///< second parts of operands, otherwise nothing
    int32,
    index,  ///< 8 bytes: indices, identities of tokens, pointers
};

/// A buffer of `columns` elements for each of `rows`. Where work buffers are shared, those of one name are one, as
/// large as the largest.
struct BufferPlan {
    std::string_view name;
    Rows rows;
    Element element;
    index_t columns = 0;
    bool for_backward = false;  ///< a forward pass alone has no need of it
};

inline void append(const std::vector<BufferPlan>& more, std::vector<BufferPlan>& buffers) {
    buffers.insert(buffers.end(), more.begin(), more.end());
}

/// Numbers of all kinds of rows.
class RowCounts {
public:
    [[nodiscard]] double& operator[](Rows rows) { return counts_[static_cast<std::size_t>(rows)]; }
    [[nodiscard]] double operator[](Rows rows) const { return counts_[static_cast<std::size_t>(rows)]; }

private:
    std::array<double, kinds_of_rows> counts_ = {1};
};

/// Bytes of elements.
struct ElementBytes {
    double scalar = 0;
    double sum = 0;
    double packed = 0;
    bool in_parts = false;  ///< as of KernelSet::operand_parts

    /// Of this precision with these kernels.
    template <class Scalar>
    [[nodiscard]] static ElementBytes of(const kernels::KernelSet& kernels) {
        return {sizeof(Scalar), sizeof(core::accumulator_t<Scalar>),
                static_cast<double>(kernels.micro_kernel<Scalar>().left_bytes) / block_elements,
                kernels.operand_parts<Scalar>() == 2};
    }
    [[nodiscard]] double operator[](Element element) const {
        switch (element) {
            case Element::scalar:
                return scalar;
            case Element::sum:
                return sum;
            case Element::narrow:
                return scalar < sum ? scalar : 0;
            case Element::packed:
                return packed;
            case Element::one_part:
                return in_parts ? 0 : scalar;
            case Element::exact:
                return in_parts ? sum : 0;
            case Element::parts:
                return in_parts ? 2 * scalar : 0;
            case Element::packed_low:
                return in_parts ? packed : 0;
            case Element::int32:
                return sizeof(std::int32_t);
            case Element::index:
                break;
        }
        return sizeof(index_t);
    }
};

[[nodiscard]] inline double bytes_of(const BufferPlan& buffer, const RowCounts& rows, const ElementBytes& elements) {
    return rows[buffer.rows] * static_cast<double>(buffer.columns) * elements[buffer.element];
}

/// Bytes of buffers that are there side by side.
[[nodiscard]] inline double bytes_of(const std::vector<BufferPlan>& buffers, const RowCounts& rows,
                                     const ElementBytes& elements, bool with_backward) {
    double bytes = 0;
    for (const BufferPlan& buffer : buffers) {
        bytes += with_backward || !buffer.for_backward ? bytes_of(buffer, rows, elements) : 0;
    }
    return bytes;
}

/// Work buffers that several users share.
class SharedBuffers {
public:
    void add(const std::vector<BufferPlan>& buffers, const RowCounts& rows, const ElementBytes& elements,
             bool with_backward) {
        for (const BufferPlan& buffer : buffers) {
            if (with_backward || !buffer.for_backward) {
                double& largest = bytes_[buffer.name];
                largest = std::max(largest, bytes_of(buffer, rows, elements));
            }
        }
    }
    [[nodiscard]] double bytes() const {
        double sum = 0;
        for (const auto& [name, bytes] : bytes_) {
            sum += bytes;
        }
        return sum;
    }

private:
    std::map<std::string_view, double> bytes_;
};

}  // namespace moesaic::ops
