#include "core/trace.hpp"
#include "core/chrome_trace.hpp"
#include "core/parallel.hpp"
#include "core/tick_clock.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <set>
#include <string>
#include <thread>

namespace moesaic::core {
namespace {

/// Ends recording and empties the buffers.
constexpr trace::ScopeName written{"written", trace::category::compute};
constexpr trace::ScopeName many{"many", trace::category::compute};
constexpr trace::ScopeName work{"work", trace::category::compute};

std::vector<trace::Event> finish() {
    trace::enable(false);
    return trace::take();
}

TEST(TickScale, FollowsTheMonotonicClock) {
    TickScale scale;
    scale.calibrate();
    struct Moment {
        std::int64_t ticks;
        std::int64_t before;
        std::int64_t after;
    };
    std::vector<Moment> moments;
    for (int i = 0; i < 20; ++i) {
        const std::int64_t before = monotonic_ns();
        const std::int64_t now = ticks();
        moments.push_back({now, before, monotonic_ns()});
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (i % 7 == 0) {
            scale.calibrate();
        }
    }
    scale.calibrate();
    constexpr std::int64_t reading = 1000;  // ns, of the calibrations themselves
    for (const Moment& moment : moments) {
        EXPECT_GE(scale.to_ns(moment.ticks), moment.before - reading);
        EXPECT_LE(scale.to_ns(moment.ticks), moment.after + reading);
    }
    EXPECT_GT(scale.ticks_per_second(), 0);
}

TEST(TickScale, KeepsItsOrderAndPlaceOverManyCalibrations) {
    TickScale scale;
    scale.calibrate();
    const std::int64_t first_ns = monotonic_ns();
    const std::int64_t first = ticks();
    std::int64_t last_ns = 0;
    for (int i = 0; i < 10000; ++i) {
        const std::int64_t moment = ticks();
        scale.calibrate();
        const std::int64_t moment_ns = scale.to_ns(moment);
        EXPECT_GE(moment_ns, last_ns);
        last_ns = moment_ns;
    }
    EXPECT_NEAR(static_cast<double>(scale.to_ns(first)), static_cast<double>(first_ns), 2e4);
}

TEST(Trace, TakesEventsWhileOthersRecord) {
    trace::enable(true);
    constexpr int events = 100000;  // several times the ring
    std::thread writer([] {
        for (int i = 0; i < events; ++i) {
            const trace::Scope scope(written);
        }
    });
    const std::int64_t dropped_before = trace::dropped();
    std::int64_t found = 0;
    std::int64_t last = 0;
    const auto count = [&](const std::vector<trace::Event>& taken) {
        for (const trace::Event& event : taken) {
            EXPECT_STREQ(event.name, "written");
            EXPECT_LE(event.begin_ns, event.end_ns);
            EXPECT_GE(event.end_ns, last);
            last = event.end_ns;
            ++found;
        }
    };
    while (found + trace::dropped() - dropped_before < events) {
        count(trace::take());
    }
    writer.join();
    count(finish());
    EXPECT_EQ(found + trace::dropped() - dropped_before, events);
    EXPECT_GT(found, 0);
}

TEST(Trace, FullRingDropsAndCounts) {
    trace::enable(true);
    const std::int64_t before = trace::dropped();
    constexpr std::int64_t events = 50000;
    for (std::int64_t i = 0; i < events; ++i) {
        const trace::Scope scope(many);
    }
    const auto kept = std::ssize(finish());
    EXPECT_LT(kept, events);
    EXPECT_EQ(kept + trace::dropped() - before, events);
}

TEST(Trace, EveryThreadOfATeamHasItsShareOfTheScope) {
    trace::enable(true);
    {
        const trace::Scope scope(work);
        EXPECT_STREQ(trace::innermost_scope().name, "work");
        parallel_for(2, 2, [](index_t) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });
    }
    EXPECT_EQ(trace::innermost_scope().name, nullptr);
    std::set<int> threads;
    for (const trace::Event& event : finish()) {
        EXPECT_STREQ(event.name, "work");
        if (std::string(event.category) == "thread") {
            threads.insert(event.thread);
        }
    }
    EXPECT_EQ(threads.size(), 2U);
}

TEST(ChromeTrace, WritesIntervalsArrowsAndCounters) {
    const std::vector<trace::Event> events = {{"outer", "mpi", 1000, 3500, 7, 2, {0xab, 0xc, 0xd}}};
    const std::vector<trace::Counter> counters = {{"memory \"x\"", {"bytes"}, {42}, 2000}, {"load", {}, {1, 2}, 2500}};
    std::string text;
    trace::ChromeFormatter formatter(3, 500);
    formatter.append(text, events);
    formatter.append(text, counters);
    EXPECT_EQ(text,
              R"({"name":"thread_name","ph":"M","pid":3,"tid":2,"args":{"name":"thread 2"}},
{"name":"outer","cat":"mpi","ph":"X","ts":0.500,"dur":2.500,"pid":3,"tid":2,"args":{"bytes":7,"call":"ab"}},
{"name":"message","cat":"mpi","ph":"s","id":"c","ts":0.500,"pid":3,"tid":2},
{"name":"message","cat":"mpi","ph":"f","bp":"e","id":"d","ts":3.000,"pid":3,"tid":2},
{"name":"memory \"x\"","ph":"C","ts":1.500,"pid":3,"tid":0,"args":{"bytes":42}},
{"name":"load","ph":"C","ts":2.000,"pid":3,"tid":0,"args":{"0":1,"1":2}})");
    text.clear();
    formatter.append(text, std::vector<trace::Event>{{"next", "step", 0, 1000, -1, 2}});
    EXPECT_EQ(text,
              ",\n"
              R"({"name":"next","cat":"step","ph":"X","ts":-0.500,"dur":1.000,"pid":3,"tid":2})");
}

}  // namespace
}  // namespace moesaic::core
