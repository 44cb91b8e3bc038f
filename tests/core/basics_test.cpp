// BF16, counter-based random numbers, buffers, the worker and trace scopes.
#include "core/chrome_trace.hpp"
#include "core/matrix.hpp"
#include "core/random.hpp"
#include "core/scalar.hpp"
#include "core/trace.hpp"
#include "core/worker.hpp"

#include <gtest/gtest.h>
#include <omp.h>
#include <sched.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <thread>

namespace moesaic::core {
namespace {

TEST(Bf16, RoundsToNearestEven) {
    EXPECT_EQ(bf16(1.0F).bits(), 0x3f80);
    EXPECT_EQ(bf16(1.0F + 0x1p-8F).bits(), 0x3f80);             // a tie goes to the even neighbour below
    EXPECT_EQ(bf16(1.0F + 3 * 0x1p-8F).bits(), 0x3f82);         // and above
    EXPECT_EQ(bf16(1.0F + 0x1p-8F + 0x1p-20F).bits(), 0x3f81);  // beyond the tie
    EXPECT_EQ(bf16(-0.0F).bits(), 0x8000);
    EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits(), 0x7f80);  // rounds to infinity
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001U)))));  // payload in low bits only
}

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
    for (unsigned bits = 0; bits < 0x10000; ++bits) {
        const bf16 value = bf16::from_bits(static_cast<std::uint16_t>(bits));
        const auto wide = static_cast<float>(value);
        if (!std::isnan(wide)) {
            ASSERT_EQ(bf16(wide).bits(), bits);
        }
    }
}

/// Known answers of Philox 4x32-10 from the Random123 distribution (kat_vectors).
TEST(CounterRandom, IsPhilox) {
    EXPECT_EQ(CounterRandom(0, 0).block(0),
              (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    const std::uint64_t ones = ~std::uint64_t{0};
    EXPECT_EQ(CounterRandom(ones, ones).block(ones),
              (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(CounterRandom, HasTheRightMoments) {
    const CounterRandom random(42, 1);
    constexpr int count = 20000;
    double uniform_sum = 0;
    double normal_sum = 0;
    double normal_squares = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        const double u = random.uniform(i);
        ASSERT_GE(u, 0.0);
        ASSERT_LT(u, 1.0);
        ASSERT_LT(random.below(i, 7), 7U);
        uniform_sum += u;
        const double n = random.normal(i);
        normal_sum += n;
        normal_squares += n * n;
    }
    // Six standard errors.
    EXPECT_NEAR(uniform_sum / count, 0.5, 6 * std::sqrt(1.0 / 12 / count));
    EXPECT_NEAR(normal_sum / count, 0.0, 6 / std::sqrt(count));
    EXPECT_NEAR(normal_squares / count, 1.0, 6 * std::sqrt(2.0 / count));
    EXPECT_NE(CounterRandom(42, 2).block(0), random.block(0));
}

TEST(Buffer, GrowsAndKeepsItsCapacity) {
    Buffer<float> buffer;
    float* first = buffer.reserve(100);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % 64, 0U);
    EXPECT_EQ(buffer.reserve(10), first);
    EXPECT_EQ(buffer.capacity(), 100U);
    buffer.reserve(1000);
    EXPECT_EQ(buffer.capacity(), 1000U);
    buffer.release();
    EXPECT_EQ(buffer.data(), nullptr);
}

TEST(MatrixView, SelectsRowsAndColumns) {
    Matrix<int> matrix(3, 4);
    for (int i = 0; i < 12; ++i) {
        matrix.data()[i] = i;
    }
    const auto part = matrix.view().rows(1, 2).columns(2, 2);
    EXPECT_EQ(part(0, 0), 6);
    EXPECT_EQ(part(1, 1), 11);
    EXPECT_EQ(part.stride(), 4);
}

TEST(Worker, RunsJobsAndHandsOverErrors) {
    Worker worker;
    std::thread::id id;
    worker.submit([&] { id = std::this_thread::get_id(); });
    worker.wait();
    EXPECT_NE(id, std::this_thread::get_id());
    worker.submit([] { throw std::runtime_error("job"); });
    EXPECT_THROW(worker.wait(), std::runtime_error);
    worker.wait();  // the error was handed over once
}

TEST(Worker, HasATeamOfTheSubmittersSizeAndPlaces) {
    const auto places = [] {
        std::vector<std::vector<std::size_t>> cpus(static_cast<std::size_t>(omp_get_max_threads()));
#pragma omp parallel
        {
            cpu_set_t set;
            sched_getaffinity(0, sizeof(set), &set);
            for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
                if (CPU_ISSET(cpu, &set)) {
                    cpus[static_cast<std::size_t>(omp_get_thread_num())].push_back(cpu);
                }
            }
        }
        return cpus;
    };
    const int team_before = omp_get_max_threads();
    cpu_set_t whole;
    sched_getaffinity(0, sizeof(whole), &whole);
    omp_set_num_threads(3);
    cpu_set_t first;  // the main thread keeps one processor, the others keep all
    CPU_ZERO(&first);
    for (std::size_t cpu = 0; CPU_COUNT(&first) == 0; ++cpu) {
        if (CPU_ISSET(cpu, &whole)) {
            CPU_SET(cpu, &first);
        }
    }
    const auto unbound = places();  // starts the team before the main thread is bound
    ASSERT_EQ(unbound.size(), 3U);
    sched_setaffinity(0, sizeof(first), &first);
    const auto expected = places();
    Worker worker;
    std::vector<std::vector<std::size_t>> found;
    worker.submit([&] { found = places(); });
    worker.wait();
    sched_setaffinity(0, sizeof(whole), &whole);
    omp_set_num_threads(team_before);
    EXPECT_EQ(found, expected);
}

TEST(Trace, RecordsScopesOfAllThreads) {
    trace::enable(true);
    {
        const trace::Scope outer(trace::ScopeName("outer", trace::category::step));
        const trace::Scope inner(trace::ScopeName("inner", trace::category::mpi), 128);
    }
    std::thread([] { const trace::Scope other(trace::ScopeName("other", trace::category::compute)); }).join();
    trace::enable(false);
    { const trace::Scope ignored(trace::ScopeName("ignored", trace::category::compute)); }
    const auto events = trace::take();
    ASSERT_EQ(events.size(), 3U);
    EXPECT_STREQ(events[0].name, "inner");
    EXPECT_EQ(events[0].bytes, 128);
    EXPECT_GE(events[1].end_ns, events[0].end_ns);
    EXPECT_NE(events[2].thread, events[0].thread);
    EXPECT_TRUE(trace::take().empty());
    std::string text;
    trace::ChromeFormatter(3, 0).append(text, events);
    EXPECT_NE(text.find(R"("ph":"X")"), std::string::npos);
    EXPECT_NE(text.find(R"("pid":3)"), std::string::npos);
    EXPECT_NE(text.find(R"("args":{"bytes":128})"), std::string::npos);
    EXPECT_EQ(text.find("ignored"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::core
