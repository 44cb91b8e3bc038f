#include "core/chrome_trace.hpp"
#include "io/files.hpp"
#include "measure/joined_trace.hpp"
#include "measure/trace_analysis.hpp"
#include "measure/trace_file.hpp"
#include "report/document.hpp"
#include "report/trace_page.hpp"
#include "support/temporary_folder.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace moesaic::measure {
namespace {

/// A trace as a file.
class TraceText {
public:
    explicit TraceText(const std::string& text) : file_(folder_.write("trace.json", text)) {}
    [[nodiscard]] Trace read() const { return read_trace(file_); }

private:
    test::TemporaryFolder folder_;
    std::filesystem::path file_;
};

const std::string begin = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
const std::string end =
    "\n],\"otherData\":{\"sessions\":[{\"begin_us\":0,\"dropped_events\":2,\"ranks\":[{\"rank\":0,\"clock\":"
    "\"tsc\",\"offset_us\":0,\"offset_at_end_us\":0,\"drift_ppm\":0,\"error_us\":0.5}]}]}}\n";

/// Times in milliseconds.
std::string interval(const std::string& name, const std::string& category, int rank, int thread, double from, double to,
                     const std::string& call = "") {
    return fmt::format(R"({{"name":"{}","cat":"{}","ph":"X","ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{}{}}})", name,
                       category, from * 1e3, (to - from) * 1e3, rank, thread,
                       call.empty() ? "" : fmt::format(R"(,"args":{{"bytes":8,"call":"{}"}})", call));
}

std::string join(const std::vector<std::string>& events) {
    std::string text = begin;
    for (const std::string& event : events) {
        text += (&event == &events.front() ? "" : ",\n") + event;
    }
    return text + end;
}

/// Two ranks, a step of 100 ms: rank 0 computes for 30 ms and waits for rank 1, which computes for 60; after the sum
/// both compute for 30 ms, rank 0 for 35. Two threads of rank 0 share 20 ms of work 2 to 1; the second one also works
/// for 5 ms while the first waits.
std::vector<std::string> two_ranks() {
    return {
        interval("step", "step", 0, 0, 0, 100),
        interval("experts.forward", "compute", 0, 0, 5, 30),
        interval("experts.up", "compute", 0, 0, 10, 30),
        interval("experts.up", "thread", 0, 0, 10, 30),
        interval("experts.up", "thread", 0, 1, 10, 20),
        interval("router", "thread", 0, 1, 40, 45),
        interval("mpi.sum", "mpi", 0, 0, 30, 65, "ab"),
        interval("mpi.min", "mpi", 0, 0, 31, 32, "ac"),
        interval("loss", "compute", 0, 0, 65, 100),
        interval("step", "step", 1, 0, 0, 95),
        interval("attention.forward", "compute", 1, 0, 0, 60),
        interval("mpi.sum", "mpi", 1, 0, 60, 64, "ab"),
        interval("loss", "compute", 1, 0, 64, 95),
        R"({"name":"message","cat":"mpi","ph":"s","id":"c","ts":1,"pid":0,"tid":0})",
        R"({"name":"tokens per expert, layer 3","ph":"C","ts":1,"pid":0,"tid":0,"args":{"0":4,"1":6,"10":1,"2":3,"3":0,"4":0,"5":0,"6":0,"7":0,"8":0,"9":0}})",
        R"({"name":"tokens per expert, layer 3","ph":"C","ts":2,"pid":0,"tid":0,"args":{"0":1,"1":1,"10":1,"2":0,"3":0,"4":0,"5":0,"6":0,"7":0,"8":0,"9":0}})",
        R"({"name":"resident memory","ph":"C","ts":2,"pid":1,"tid":0,"args":{"bytes":4096}})"};
}

TEST(TraceAnalysis, FindsWhereTheTimeWent) {
    const TraceText file(join(two_ranks()));
    const Trace trace = file.read();
    EXPECT_EQ(trace.dropped, 2);
    EXPECT_TRUE(trace.is_complete);
    const TraceSummary summary = analyse(trace);
    constexpr double tiny = 1e-9;
    ASSERT_EQ(summary.steps, 1);
    ASSERT_EQ(summary.ranks.size(), 2U);
    const RankSteps& first = summary.ranks.at(0);
    EXPECT_NEAR(first.total, 0.100, tiny);
    EXPECT_NEAR(first.phases.at("experts"), 0.025, tiny);
    EXPECT_NEAR(first.phases.at("collectives"), 0.035, tiny);
    EXPECT_NEAR(first.phases.at("loss"), 0.035, tiny);
    EXPECT_NEAR(first.phases.at("step"), 0.005, tiny);
    EXPECT_NEAR(first.waiting, 0.030, tiny);
    EXPECT_NEAR(first.transfer, 0.005, tiny);
    EXPECT_NEAR(first.overlapped, 0.005, tiny);
    EXPECT_NEAR(summary.ranks.at(1).waiting, 0, tiny);
    EXPECT_NEAR(summary.ranks.at(1).transfer, 0.004, tiny);
    EXPECT_NEAR(summary.rank_imbalance_percent, 100 * (0.091 / 0.078 - 1), 1e-6);
    EXPECT_NEAR(summary.least_overlap, 0.004, tiny);
    EXPECT_EQ(summary.checked_collectives, 1);
    EXPECT_EQ(summary.peak_memory_bytes.at(1), 4096);
}

TEST(TraceAnalysis, CriticalPathGoesThroughTheRankThatComesLast) {
    const TraceText file(join(two_ranks()));
    const CriticalPath path = analyse(file.read()).critical_path;
    constexpr double tiny = 1e-9;
    EXPECT_NEAR(path.total, 0.100, tiny);
    EXPECT_EQ(path.changes, 1);
    EXPECT_NEAR(path.phases.at("loss"), 0.035, tiny);         // on rank 0
    EXPECT_NEAR(path.phases.at("collectives"), 0.005, tiny);  // from the coming of rank 1 on
    EXPECT_NEAR(path.phases.at("attention"), 0.060, tiny);    // on rank 1
    EXPECT_NEAR(path.by_rank.at(0), 0.035, tiny);
    EXPECT_NEAR(path.by_rank.at(1), 0.060, tiny);
    EXPECT_FALSE(path.phases.contains("experts"));
}

TEST(TraceAnalysis, ComparesThreadsOfATeamAndCountsExperts) {
    const TraceText file(join(two_ranks()));
    const TraceSummary summary = analyse(file.read());
    ASSERT_EQ(summary.threads.size(), 1U);
    EXPECT_EQ(summary.threads[0].scope, "experts.up");
    EXPECT_EQ(summary.threads[0].threads, 2);
    EXPECT_NEAR(summary.threads[0].imbalance_percent(), 100 * (20.0 / 15 - 1), 1e-6);
    ASSERT_EQ(summary.experts.layers, std::vector<std::string>{"layer 3"});
    EXPECT_EQ(summary.experts.tokens[0], (std::vector<double>{5, 7, 3, 0, 0, 0, 0, 0, 0, 0, 2}));
}

TEST(TraceAnalysis, ThreadsAreComparedWithinStepsOnly) {
    std::vector<std::string> events = two_ranks();
    for (const double evaluation : {-50.0, 200.0}) {
        events.push_back(interval("evaluate", "step", 0, 0, evaluation, evaluation + 40));
        events.push_back(interval("experts.up", "thread", 0, 0, evaluation, evaluation + 10));
        events.push_back(interval("experts.up", "thread", 0, 1, evaluation, evaluation + 40));
    }
    const TraceText file(join(events));
    const TraceSummary summary = analyse(file.read());
    ASSERT_EQ(summary.threads.size(), 1U);
    EXPECT_NEAR(summary.threads[0].mean, 0.015, 1e-9);
    EXPECT_NEAR(summary.threads[0].longest, 0.020, 1e-9);
}

/// The text of the page about a trace.
std::string page_of(const Trace& trace) {
    report::Document document;
    document.sections = report::sections_of(trace, analyse(trace));
    return report::to_markdown(document);
}

TEST(TraceAnalysis, StepsThatNotAllRanksHaveAreLeftOut) {
    std::vector<std::string> events = two_ranks();
    events.push_back(interval("step", "step", 0, 0, 100, 300));  // rank 1 was killed
    events.push_back(interval("loss", "compute", 0, 0, 100, 300));
    const TraceText file(join(events));
    const TraceSummary summary = analyse(file.read());
    EXPECT_EQ(summary.steps, 1);
    EXPECT_EQ(summary.steps_of_ranks.at(0), 2U);
    EXPECT_NEAR(summary.ranks.at(0).total, 0.100, 1e-9);
    EXPECT_NEAR(summary.ranks.at(0).median, 0.100, 1e-9);
    EXPECT_NEAR(summary.critical_path.total, 0.100, 1e-9);
    EXPECT_NE(page_of(file.read())
                  .find("The ranks recorded 1 to 2 steps (fewest on rank 1). What follows is about the "
                        "1 that all of them have, from 0.00 s to 0.10 s of the trace."),
              std::string::npos)
        << page_of(file.read());
    const TraceText whole(join(two_ranks()));
    EXPECT_EQ(page_of(whole.read()).find("The ranks recorded"), std::string::npos);
}

TEST(TraceAnalysis, ThreadsThatCostMostComeFirst) {
    std::vector<std::string> events = two_ranks();
    events.push_back(interval("attention.forward", "thread", 1, 0, 0, 50));
    events.push_back(interval("attention.forward", "thread", 1, 1, 0, 20));
    events.push_back(interval("loss", "thread", 1, 0, 64, 65));
    events.push_back(interval("loss", "thread", 1, 1, 64, 64.1));  // 82 % of very little
    const TraceText file(join(events));
    const std::string page = page_of(file.read());
    const std::size_t attention = page.find("| 1 | attention.forward | 2 | 35 | 42.86 |");
    const std::size_t experts = page.find("| 0 | experts.up | 2 | 15 | 33.33 |");
    EXPECT_LT(attention, experts) << page;
    EXPECT_LT(experts, page.find("| 1 | loss | 2 |")) << page;
    EXPECT_NE(page.find("| 1 | loss | 2 |"), std::string::npos) << page;
}

/// Of the second of three steps rank 1 has the collective only: its buffer was full when the step ended.
TEST(TraceAnalysis, StepsOfRanksAreMatchedByTheirCollectives) {
    std::vector<std::string> events;
    for (const int rank : {0, 1}) {
        const std::vector<double> ends = {0, 100, 300, 600};
        for (std::size_t step = 1; step < ends.size(); ++step) {
            if (rank == 0 || step != 2) {
                events.push_back(interval("step", "step", rank, 0, ends[step - 1], ends[step]));
            }
            events.push_back(
                interval("mpi.sum", "mpi", rank, 0, ends[step] - 10, ends[step], fmt::format("a{}", step)));
        }
    }
    const TraceText file(join(events));
    const TraceSummary summary = analyse(file.read());
    EXPECT_EQ(summary.steps, 2);
    for (const int rank : {0, 1}) {
        EXPECT_NEAR(summary.ranks.at(rank).total, 0.400, 1e-9);
        EXPECT_NEAR(summary.ranks.at(rank).transfer, 0.020, 1e-9);
        EXPECT_EQ(summary.ranks.at(rank).alone, 0);
    }
    EXPECT_NEAR(summary.critical_path.total, 0.400, 1e-9);
}

TEST(TraceAnalysis, WaitingOfWhichTheOtherRanksSayNothingIsUnknown) {
    const TraceText alone(
        join({interval("step", "step", 0, 0, 0, 100), interval("mpi.sum", "mpi", 0, 0, 30, 65, "ab")}));
    const std::string page = page_of(alone.read());
    EXPECT_NE(page.find("only one rank left a record"), std::string::npos) << page;
    EXPECT_NE(page.find("| 65 | unknown | unknown |"), std::string::npos) << page;
    const TraceText whole(join(two_ranks()));
    EXPECT_EQ(page_of(whole.read()).find("unknown"), std::string::npos);
    const std::string name = R"({"name":"process_name","ph":"M","pid":1,"args":{"name":"rank 1"}})";
    const TraceText ended_early(join({name, interval("step", "step", 0, 0, 0, 100)}));
    EXPECT_NE(page_of(ended_early.read()).find("1 of 2 ranks recorded no step"), std::string::npos);
    const TraceText no_steps(join({name}));
    EXPECT_NE(page_of(no_steps.read()).find("2 events were not kept"), std::string::npos);
    const TraceText different(join({interval("step", "step", 0, 0, 0, 100), interval("step", "step", 1, 0, 100, 200)}));
    EXPECT_NE(page_of(different.read()).find("None of them is there on all ranks"), std::string::npos);
}

TEST(TraceAnalysis, ThePageSaysWhatIsMissing) {
    const std::string whole = join(two_ranks());
    const TraceText file(whole);
    EXPECT_NE(page_of(file.read()).find("2 events were not kept"), std::string::npos);
    EXPECT_EQ(page_of(file.read()).find("ends in the middle"), std::string::npos);
    const TraceText cut(whole.substr(0, whole.size() - end.size()));
    EXPECT_NE(page_of(cut.read()).find("ends in the middle"), std::string::npos);
    std::vector<std::string> events = two_ranks();
    events[6] = interval("mpi.sum", "mpi", 0, 0, 30, 40, "ab");  // left 20 ms before rank 1 came
    const TraceText wrong(join(events));
    EXPECT_NE(page_of(wrong.read()).find("disagree by 20000.00 us or more (at most 1.00 us were expected)"),
              std::string::npos)
        << page_of(wrong.read());
    events[6] = interval("mpi.sum", "mpi", 0, 0, 30, 59.9992, "ab");  // within the errors of both clocks
    const TraceText near(join(events));
    EXPECT_EQ(page_of(near.read()).find("disagree"), std::string::npos) << page_of(near.read());
}

/// Clocks that disagree may let collectives end before others begin.
TEST(TraceAnalysis, EndsWhateverTheTimesAre) {
    for (const double skew : {-1000.0, -40.0, -5.0, 0.0, 5.0, 40.0, 1000.0}) {
        std::vector<std::string> events;
        for (int rank = 1; rank < 3; ++rank) {
            const double shift = rank * skew - 2500;
            events.push_back(interval("step", "step", rank, 0, shift, shift + 100));
            for (int i = 0; i < 10; ++i) {
                const double from = shift + 10 * i;
                events.push_back(interval("mpi.sum", "mpi", rank, 0, from, from + i % 3, fmt::format("a{}", i)));
            }
        }
        const TraceText file(join(events));
        EXPECT_GT(analyse(file.read()).critical_path.total, 0);
    }
    const TraceText empty(begin + end);
    EXPECT_EQ(analyse(empty.read()).steps, 0);
}

/// Whether it comes from memory or from a file, one analysis says the same.
TEST(TraceFile, HoldsWhatWasRecorded) {
    namespace trace = core::trace;
    constexpr std::int64_t ms = 1000000;
    const std::vector<trace::Event> events = {{"exchange.dispatch", trace::category::compute, 2 * ms, 6 * ms, -1, 0},
                                              {"experts.forward", trace::category::compute, 4 * ms, 9 * ms, -1, 1},
                                              {"experts.forward", trace::category::thread, 4 * ms, 8 * ms, -1, 2},
                                              {"mpi.sum", trace::category::mpi, 6 * ms, 7 * ms, 8, 0, {0xab, 0xc, 0xd}},
                                              {"step", trace::category::step, 1 * ms, 11 * ms, -1, 0}};
    std::string text;
    trace::ChromeFormatter(0, 0).append(text, events);
    const TraceText file(begin + text + end);
    Trace recorded;
    recorded.add(0, events);
    for (const Trace& source : {recorded, file.read()}) {
        const RankSteps rank = analyse(source).ranks.at(0);
        constexpr double tiny = 1e-9;
        EXPECT_NEAR(rank.total, 0.010, tiny);
        EXPECT_NEAR(rank.exchange, 0.004, tiny);
        EXPECT_NEAR(rank.hidden, 0.002, tiny);
        EXPECT_NEAR(rank.alone, 0.001, tiny);
        EXPECT_NEAR(rank.overlapped, 0.001, tiny);
        EXPECT_NEAR(rank.seconds_of(core::scopes::experts_forward), 0.005, tiny);
        EXPECT_NEAR(rank.seconds_of(core::scopes::mpi_sum), 0.001, tiny);
    }
}

/// It has a place of its own, whatever it consists of; what ranks say to each other is told apart, as everywhere.
TEST(TraceAnalysis, WhatIsComputedAgainIsTold) {
    const TraceText file(
        join({interval("step", "step", 0, 0, 0, 100), interval("decoder.backward", "step", 0, 0, 10, 90),
              interval("recompute", "step", 0, 0, 20, 60), interval("attention.forward", "compute", 0, 0, 20, 40),
              interval("exchange.dispatch", "compute", 0, 0, 40, 55),
              interval("mpi.all_to_all_rows", "mpi", 0, 0, 45, 50, "ab"),
              interval("attention.backward", "compute", 0, 0, 60, 80)}));
    const RankSteps rank = analyse(file.read()).ranks.at(0);
    constexpr double tiny = 1e-9;
    EXPECT_NEAR(rank.phases.at("recompute"), 0.035, tiny);
    EXPECT_NEAR(rank.phases.at("attention"), 0.020, tiny);
    EXPECT_NEAR(rank.phases.at("decoder"), 0.020, tiny);
    EXPECT_NEAR(rank.phases.at(collectives_phase), 0.005, tiny);
    EXPECT_FALSE(rank.phases.contains("exchange"));
    EXPECT_NEAR(rank.seconds_of(core::scopes::recompute), 0.040, tiny);
    EXPECT_NEAR(rank.seconds_of(core::scopes::decoder_backward), 0.080, tiny);
    EXPECT_FALSE(rank.scopes.contains("attention.forward"));
    EXPECT_NEAR(rank.exchange, 0.015, tiny);
}

TEST(TraceFile, IsReadAsFarAsItGoes) {
    const std::string whole = join(two_ranks());
    for (const std::size_t length : {whole.size() - end.size(), whole.size() / 2, begin.size()}) {
        const TraceText cut(whole.substr(0, length));
        EXPECT_FALSE(cut.read().is_complete);
    }
}

TEST(TraceFile, DamageIsAnErrorOfTheInput) {
    for (const std::string& text :
         {std::string("[]"), std::string(), begin + "{\"ph\":\"X\"},\n" + end, begin + "{\"ph\":1},\n" + end,
          begin + "nonsense\n" + end, begin + R"({"name":"x","ph":"C","ts":1,"pid":0,"args":{"7":1}})" + "\n" + end,
          begin + R"({"name":"x","cat":"y","ph":"X","ts":"1","dur":1,"pid":0,"tid":0})" + "\n" + end,
          begin + R"({"name":"x","cat":"y","ph":"X","ts":1,"dur":-1,"pid":0,"tid":0})" + "\n" + end,
          begin + R"({"name":"x","cat":"y","ph":"X","ts":1,"dur":1e308,"pid":0,"tid":0})" + "\n" + end,
          begin + R"({"name":"x","cat":"y","ph":"X","ts":-1e300,"dur":1,"pid":0,"tid":0})" + "\n" + end,
          begin + R"({"name":"x","ph":"C","ts":1,"pid":0,"args":{"bytes":1e300}})" + "\n" + end,
          begin + R"({"name":"x","ph":"C","ts":1,"pid":0,"args":{"bytes":-1}})" + "\n" + end,
          begin + "\n],\"otherData\":{\"sessions\":[{\"begin_us\":0,\"ranks\":[{\"rank\":0}]}]}}\n",
          begin + "\n],\"otherData\":{\"sessions\":[{\"ranks\":[]}]}}\n", begin + "\n],\"otherData\":7}\n",
          begin + std::string(std::size_t{5} << 20U, ' ') + "\n" + end}) {
        const TraceText file(text);
        try {
            (void)file.read();
            ADD_FAILURE() << "accepted " << text.substr(0, 200);
        } catch (const core::Error& error) {
            EXPECT_EQ(error.code(), core::ExitCode::corrupt_input) << error.what();
            EXPECT_NE(std::string(error.what()).find("trace.json"), std::string::npos) << error.what();
        }
    }
}

/// A session of rank 0 as that rank leaves it.
std::string part(double from, double to, const std::string& dropped) {
    return begin + interval("step", "step", 0, 0, from, to) + ",\n" + interval("mpi.sum", "mpi", 0, 0, from, to, "ab") +
           ",\n" + R"({"name":"message","cat":"mpi","ph":"s","id":"c","ts":5000,"pid":0,"tid":0})" +
           "\n],\"otherData\":{\"dropped_events\":" + dropped + "}}\n";
}

/// Of three sessions, of which the last is being written; the second was killed in the middle of a line.
TEST(JoinedTrace, SessionsFollowEachOther) {
    const test::TemporaryFolder folder;
    const std::filesystem::path joined = folder / "trace.json";
    folder.write("first/rank-0.json", part(5, 105, "3"));
    add_killed_session(joined, folder / "first");
    const std::string cut = part(0, 50, "4");
    folder.write("second/rank-0.json", cut.substr(0, cut.find("message")));
    add_killed_session(joined, folder / "second");
    add_killed_session(joined, folder / "none");
    folder.write("parts/rank-0.json", part(-2, 8, "5"));
    const Trace trace = read_trace(joined, folder / "parts");
    EXPECT_TRUE(trace.is_complete);
    EXPECT_EQ(trace.dropped, 8);
    ASSERT_EQ(trace.sessions.size(), 3U);
    EXPECT_EQ(trace.sessions[1].begin, 105e3 + us_between_sessions);
    EXPECT_EQ(trace.sessions[2].begin, 155e3 + 2 * us_between_sessions);
    std::vector<double> begins;
    std::set<std::uint64_t> calls;
    for (const TraceInterval& event : trace.ranks.at(0)) {
        if (event.call == 0) {
            begins.push_back(event.begin);
        } else {
            EXPECT_TRUE(calls.insert(event.call).second) << event.call;
        }
    }
    EXPECT_EQ(begins, (std::vector<double>{5e3, 105e3 + us_between_sessions, 153e3 + 2 * us_between_sessions}));
    EXPECT_EQ(calls.size(), 3U);
    EXPECT_EQ(analyse(trace).steps, 3);
    EXPECT_NE(page_of(trace).find("The trace holds 3 sessions"), std::string::npos) << page_of(trace);

    const std::string text = io::read_file(joined, std::size_t{1} << 20U);
    EXPECT_EQ(nlohmann::json::parse(text)["traceEvents"].size(), 5U);
    EXPECT_NE(text.find(R"("id":"c")"), std::string::npos) << text;
    EXPECT_NE(text.find(R"("call":"1000000000000ab")"), std::string::npos) << text;  // of the second session
}

TEST(JoinedTrace, SessionsOfOtherRankCountsAreTold) {
    const test::TemporaryFolder folder;
    folder.write("first/rank-0.json", part(5, 105, "0"));
    add_killed_session(folder / "trace.json", folder / "first");
    std::string other = part(-1, 9, "0");
    folder.write("parts/rank-0.json", other);
    for (std::size_t at = 0; (at = other.find("\"pid\":0", at)) != std::string::npos;) {
        other.replace(at, 7, "\"pid\":1");
    }
    folder.write("parts/rank-1.json", other);
    const Trace trace = read_trace(folder / "trace.json", folder / "parts");
    EXPECT_EQ(analyse(trace).steps, 1);  // of both ranks
    const std::string page = page_of(trace);
    EXPECT_NE(page.find("The ranks recorded 1 to 2 steps (fewest on rank 1)"), std::string::npos) << page;
    EXPECT_NE(page.find("2 of 2 sessions did not come to their end"), std::string::npos) << page;
}

TEST(JoinedTrace, AFileOfAnotherKindIsNotTakenUp) {
    const test::TemporaryFolder folder;
    const std::filesystem::path joined = folder.write("trace.json", "{\n  \"traceEvents\": []\n}\n");
    folder.write("parts/rank-0.json", part(0, 1, "0"));
    add_killed_session(joined, folder / "parts");
    EXPECT_EQ(read_trace(joined).sessions.size(), 1U);
    EXPECT_EQ(analyse(read_trace(joined)).steps, 1);
}

}  // namespace
}  // namespace moesaic::measure
