#include "core/tick_clock.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>

namespace moesaic::core {
namespace {

bool detect_invariant_tsc() {
#if defined(__x86_64__)
    constexpr unsigned power_management = 0x80000007U;
    constexpr unsigned invariant = 1U << 8U;
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(power_management, &a, &b, &c, &d) != 0 && (d & invariant) != 0;
#else
    return false;
#endif
}

}  // namespace

const bool has_invariant_tsc = detect_invariant_tsc();

void TickScale::calibrate() {
    Reading best{};
    std::int64_t shortest = std::numeric_limits<std::int64_t>::max();
    for (int attempt = 0; attempt < 8; ++attempt) {  // one alone may have been interrupted
        const std::int64_t before = ticks();
        const std::int64_t ns = monotonic_ns();
        const std::int64_t after = ticks();
        if (after - before < shortest) {
            shortest = after - before;
            best = {before + (after - before) / 2, ns};
        }
    }
    if (!readings_.empty() && best.ticks <= readings_.back().ticks) {
        return;
    }
    if (readings_.size() == most_readings) {
        // Every other one of the older half. Scopes that are open now began in the newer one, unless they last for
        // minutes: what is inside of them must not move against them.
        std::size_t kept = 0;
        for (std::size_t i = 0; i < most_readings / 2; i += 2) {
            readings_[kept++] = readings_[i];
        }
        readings_.erase(readings_.begin() + static_cast<std::ptrdiff_t>(kept),
                        readings_.begin() + static_cast<std::ptrdiff_t>(most_readings / 2));
    }
    readings_.push_back(best);
}

std::int64_t TickScale::to_ns(std::int64_t at) const {
    // The interval that holds the moment, or the nearest one.
    const auto after =
        std::upper_bound(readings_.begin() + 1, readings_.end() - 1, at,
                         [](std::int64_t value, const Reading& reading) { return value < reading.ticks; });
    const Reading& from = *(after - 1);
    const double rate = static_cast<double>(after->ns - from.ns) / static_cast<double>(after->ticks - from.ticks);
    return from.ns + std::llround(static_cast<double>(at - from.ticks) * rate);
}

double TickScale::ticks_per_second() const {
    return 1e9 * static_cast<double>(readings_.back().ticks - readings_.front().ticks) /
           static_cast<double>(readings_.back().ns - readings_.front().ns);
}

}  // namespace moesaic::core
