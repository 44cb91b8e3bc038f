#include "core/trace.hpp"
#include "mpi/clock_alignment.hpp"
#include "mpi/communicator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace moesaic::mpi {
namespace {

/// The host's clock, shifted and faster, differently on every rank.
struct FalseClock {
    explicit FalseClock(int rank) : shift_ns(1e9 * rank * rank), drift(5e-5 * rank) {}

    [[nodiscard]] double at(std::int64_t host_ns) const {
        return static_cast<double>(host_ns) + shift_ns + drift * static_cast<double>(host_ns - begin_ns);
    }
    [[nodiscard]] std::int64_t operator()() const { return std::llround(at(core::trace::now_ns())); }

    double shift_ns;
    double drift;
    std::int64_t begin_ns = core::trace::now_ns();
};

TEST(ClockAlignment, FindsOffsetAndDriftWithinItsBound) {
    const Communicator world = Communicator::world();
    FalseClock clock(world.rank());
    // All clocks drift from the same moment on, that of rank 0.
    world.broadcast(std::span<std::int64_t>(&clock.begin_ns, 1));
    const ClockReading first = read_clock_of_root(world, clock);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const ClockReading last = read_clock_of_root(world, clock);
    const ClockLine line(first, last);
    for (int i = 0; i <= 4; ++i) {  // at both ends and between them
        const double own = static_cast<double>(first.at_ns) + i * 0.25 * static_cast<double>(last.at_ns - first.at_ns);
        const double host = static_cast<double>(clock.begin_ns) +
                            (own - static_cast<double>(clock.begin_ns) - clock.shift_ns) / (1 + clock.drift);
        // The drift moves the clock by nanoseconds while the round trip lasts.
        EXPECT_NEAR(own + line.offset_ns(own), host, line.error_ns() + 100) << "rank " << world.rank();
    }
    if (world.is_root()) {
        EXPECT_EQ(line.error_ns(), 0);
        EXPECT_EQ(line.drift_ppm(), 0);
    } else {
        EXPECT_LT(line.error_ns(), 1e6);
    }
}

/// No rank leaves a barrier before the last one has come: on one clock, the intervals of a barrier have a moment in
/// common.
TEST(ClockAlignment, BarriersOverlapOnTheClockOfRankZero) {
    const Communicator world = Communicator::world();
    const FalseClock clock(world.rank());
    const ClockReading first = read_clock_of_root(world, clock);
    constexpr std::size_t count = 50;
    std::vector<double> begins;
    std::vector<double> ends;
    for (std::size_t i = 0; i < count; ++i) {
        begins.push_back(static_cast<double>(clock()));
        world.barrier();
        ends.push_back(static_cast<double>(clock()));
    }
    const ClockLine line(first, read_clock_of_root(world, clock));
    const double error = world.max(line.error_ns());
    double violation = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double last_begin = world.max(begins[i] + line.offset_ns(begins[i]));
        const double first_end = world.min(ends[i] + line.offset_ns(ends[i]));
        violation = std::max(violation, last_begin - first_end);
    }
    if (world.is_root()) {
        std::printf("clocks within %.0f ns, barriers violated by %.0f ns at most\n", error, violation);
    }
    EXPECT_LE(violation, 2 * error + 100);  // that of two ranks
}

/// The ends of every arrow are on two ranks, and a collective call has one number on all of them.
TEST(TransferNumbers, ConnectRanks) {
    const Communicator world = Communicator::world();
    if (world.size() == 1) {
        GTEST_SKIP() << "one rank sends no messages";
    }
    const Communicator pair = world.split(world.rank() / 2, world.rank());
    (void)core::trace::take();
    core::trace::enable(true);
    std::vector<float> all(static_cast<std::size_t>(world.size()));
    const std::vector<index_t> counts(all.size(), 1);
    const float mine = 1;
    for (int i = 0; i < 2; ++i) {
        world.all_gather_rows<float>({&mine, 1, 1}, {all.data(), world.size(), 1}, counts);
    }
    pair.barrier();
    if (pair.is_root() && pair.size() == 2) {
        pair.send(std::as_bytes(std::span(&mine, 1)), 1);
    } else if (pair.size() == 2) {
        pair.receive(std::as_writable_bytes(std::span(all).first(1)), 0);
    }
    core::trace::enable(false);
    std::string text;
    for (const core::trace::Event& event : core::trace::take()) {
        text += std::to_string(event.transfer.call) + ' ' + std::to_string(event.transfer.sent) + ' ' +
                std::to_string(event.transfer.received) + '\n';
    }
    std::map<std::string, int> sent;
    std::map<std::string, int> received;
    std::map<std::string, int> calls;
    for (const std::string& of_rank : world.all_gather(text)) {
        std::istringstream in(of_rank);
        for (std::string call, from, to; in >> call >> from >> to;) {
            ++calls[call];
            ++sent[from];
            ++received[to];
        }
    }
    calls.erase("0");  // messages from rank to rank
    sent.erase("0");
    received.erase("0");
    EXPECT_EQ(sent, received);
    const auto pairs = static_cast<std::size_t>(world.size() / 2);
    EXPECT_EQ(sent.size(), 2 * all.size() + pairs);
    for (const auto& [arrow, times] : sent) {
        EXPECT_EQ(times, 1) << arrow;
    }
    EXPECT_EQ(calls.size(), 2 + pairs);  // a barrier in each pair
}

}  // namespace
}  // namespace moesaic::mpi
