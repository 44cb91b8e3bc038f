#include "core/trace.hpp"
#include "core/chrome_trace.hpp"
#include "core/parallel.hpp"
#include "core/tick_clock.hpp"
#include "core/trace_time.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>

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

/// What begins in a scope may be converted long before the scope is, which ends later.
TEST(TickScale, MomentsStayWhereTheyAre) {
    TickScale scale;
    scale.calibrate();
    std::vector<std::pair<std::int64_t, std::int64_t>> moments;
    constexpr std::size_t later = 2000;
    for (std::size_t i = 0; i < 5 * later; ++i) {
        const std::int64_t moment = ticks();
        scale.calibrate();
        moments.emplace_back(moment, scale.to_ns(moment));
        if (i >= later) {
            const auto& [earlier, earlier_ns] = moments[i - later];
            ASSERT_EQ(scale.to_ns(earlier), earlier_ns) << i;
        }
    }
}

TEST(Trace, TakesEventsWhileOthersRecord) {
    trace::enable(true);
    constexpr int events = 100000;  // several times the ring
    const std::int64_t dropped_before = trace::dropped();
    std::thread writer([] {
        for (int i = 0; i < events; ++i) {
            const trace::Scope scope(written);
        }
    });
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
{"name":"outer","cat":"mpi","ph":"X","ts":0.5,"dur":2.5,"pid":3,"tid":2,"args":{"bytes":7,"call":"ab"}},
{"name":"message","cat":"mpi","ph":"s","id":"c","ts":0.5,"pid":3,"tid":2},
{"name":"message","cat":"mpi","ph":"f","bp":"e","id":"d","ts":3,"pid":3,"tid":2},
{"name":"memory \"x\"","ph":"C","ts":1.5,"pid":3,"tid":0,"args":{"bytes":42}},
{"name":"load","ph":"C","ts":2,"pid":3,"tid":0,"args":{"0":1,"1":2}})");
    text.clear();
    formatter.append(text, std::vector<trace::Event>{{"next", "step", 0, 1000, -1, 2}});
    EXPECT_EQ(text,
              ",\n"
              R"({"name":"next","cat":"step","ph":"X","ts":-0.5,"dur":1,"pid":3,"tid":2})");
}

/// "123.456" as a reader of JSON takes it.
double as_double(trace::TraceTime time) {
    std::string text;
    time.append_to(text);
    return std::stod(text);
}

TEST(TraceTime, IsTheNearestUnitWithAllItsDecimals) {
    for (const auto& [ns, expected] : std::initializer_list<std::pair<std::int64_t, const char*>>{
             {0, "0"},
             {125, "0.125"},
             {-125, "-0.125"},
             {1, "0.0009765625"},
             {999, "0.9990234375"},
             {-1999, "-1.9990234375"},
             {123456789012345, "123456789012.34521484375"},
             {-4000000000000000001, "-4000000000000000.0009765625"}}) {
        std::string text;
        trace::TraceTime::of_ns(ns).append_to(text);
        EXPECT_EQ(text, expected) << ns;
    }
}

/// Moments all over the fifty days of which the header speaks: exact in doubles, and whole nanoseconds to those who
/// round.
TEST(TraceTime, SurvivesTheArithmeticOfReaders) {
    constexpr std::int64_t longest = std::int64_t{50} * 24 * 3600 * 1'000'000'000;
    std::mt19937_64 random(1);
    for (int i = 0; i < 100000; ++i) {
        const auto end_ns = static_cast<std::int64_t>(random() % longest);
        const trace::TraceTime end = trace::TraceTime::of_ns(end_ns);
        for (const std::int64_t duration_ns :
             std::array<std::int64_t, 4>{0, 1, static_cast<std::int64_t>(random() % 100000), end_ns}) {
            const std::int64_t begin_ns = end_ns - duration_ns;
            const trace::TraceTime begin = trace::TraceTime::of_ns(begin_ns);
            ASSERT_EQ(as_double(begin) + as_double(end - begin), as_double(end)) << begin_ns << ' ' << end_ns;
            ASSERT_EQ(std::llround(as_double(begin) * 1000), begin_ns);
            ASSERT_EQ(std::llround(as_double(end - begin) * 1000), duration_ns) << begin_ns << ' ' << end_ns;
        }
    }
}

}  // namespace
}  // namespace moesaic::core
