// Loops over the thread team whose bodies may throw.
#pragma once

#include "core/matrix.hpp"
#include "core/trace.hpp"

#include <omp.h>

#include <exception>

namespace moesaic::core {

/// First exception of a parallel region, which none may leave.
class ExceptionStore {
public:
    void keep_current() noexcept {
#pragma omp critical(moesaic_exception_store)
        if (first_ == nullptr) {
            first_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (first_ != nullptr) {
            std::rethrow_exception(first_);
        }
    }

private:
    std::exception_ptr first_;
};

/// Threads for work of so many multiplications: below some 100 microseconds of plain code, waking the team costs more
/// than it saves.
[[nodiscard]] inline int threads_for(double work) {
    constexpr double least_parallel_work = 1 << 18;
    return work < least_parallel_work ? 1 : omp_get_max_threads();
}

/// Into how many items per thread work is cut where items can be cut as wanted: with fewer, threads wait for the last
/// item; with more, what an item does once, such as packing its operands, is done more often.
inline constexpr index_t items_per_thread = 6;

/// body(i) for i in [0, count), handed to the threads of the team one by one in this order: put the longest first. The
/// first exception that a body throws is thrown again when all have ended. The trace shows for how long each thread of
/// several works, under the name of the innermost open scope.
template <class Body>
void parallel_for(index_t count, int threads, const Body& body) {
    ExceptionStore errors;
    const trace::ScopeName work = threads > 1 ? trace::innermost_scope() : trace::ScopeName();
#pragma omp parallel num_threads(threads)
    {
        const auto share = trace::Scope::share_of(work);
#pragma omp for schedule(dynamic, 1) nowait
        for (index_t i = 0; i < count; ++i) {
            try {
                body(i);
            } catch (...) {
                errors.keep_current();
            }
        }
    }
    errors.rethrow();
}

template <class Body>
void parallel_for(index_t count, const Body& body) {
    parallel_for(count, omp_get_max_threads(), body);
}

}  // namespace moesaic::core
