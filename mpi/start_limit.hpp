// Ends a job whose ranks do not all start.
#pragma once

namespace moesaic::mpi {

/// While it lives, this process ends with exit code 1 and one line after `seconds`, which ends the other ranks, too.
/// For what ranks do together before there is a Watchdog: a rank that hangs there would keep the others forever. One
/// at a time; uses SIGALRM.
class StartLimit {
public:
    static constexpr double usual_seconds = 600;

    /// 0: no limit.
    explicit StartLimit(double seconds = usual_seconds);
    ~StartLimit();
    StartLimit(const StartLimit&) = delete;
    StartLimit& operator=(const StartLimit&) = delete;
};

}  // namespace moesaic::mpi
