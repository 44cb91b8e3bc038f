// Memory that the threads of a team share out among themselves, for measuring how fast they get at it.
#pragma once

#include "core/matrix.hpp"
#include "kernels/peak.hpp"

#include <span>

namespace moesaic::train {

using core::index_t;

/// Arrays of ones in huge pages where the system gives them; each thread first touched the parts that it will use.
class TeamMemory {
public:
    TeamMemory() = default;
    /// For the number of threads of now.
    TeamMemory(index_t arrays, index_t bytes_of_each);

    [[nodiscard]] double bytes_of_each() const noexcept { return static_cast<double>(values_.cols()) * sizeof(float); }
    /// What the calling thread has of an array in its team.
    [[nodiscard]] std::span<float> share_of_thread(index_t array);
    /// All threads read their shares of an array, `times` one after the other.
    void read(const kernels::PeakLoop& loop, index_t array, index_t times = 1);

private:
    core::Matrix<float> values_;  ///< [arrays, elements]
};

}  // namespace moesaic::train
