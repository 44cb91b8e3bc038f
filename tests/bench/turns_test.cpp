// Two programs that measure in turns.
#include "bench/turns.hpp"

#include "core/error.hpp"
#include "support/temporary_folder.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <thread>

namespace moesaic::bench {
namespace {

/// Two runs that pass turns through pipes, as programs do.
TEST(Turns, AlternateUntilOneEnds) {
    const test::TemporaryFolder folder;
    const std::string a = folder / "a";
    const std::string b = folder / "b";
    ASSERT_EQ(mkfifo(a.c_str(), 0600), 0);
    ASSERT_EQ(mkfifo(b.c_str(), 0600), 0);
    std::fstream start(a, std::ios::in | std::ios::out);  // as whoever starts the two
    start << 't' << std::flush;
    std::string order;
    const auto run = [&](char name, const std::string& pipes, int rounds) {
        Turns turns(pipes);
        for (int i = 0; i < rounds; ++i) {
            turns.take();
            order += name;  // no other thread has its turn
            turns.pass();
        }
    };
    std::thread other([&] { run('B', b + "," + a, 6); });
    run('A', a + "," + b, 3);
    other.join();
    EXPECT_EQ(order, "ABABABBBB");
    EXPECT_THROW(Turns("no comma"), core::Error);
    EXPECT_THROW(Turns(a + "," + (folder / "none").string()), core::Error);
    EXPECT_THROW(Turns(folder.path().string() + "," + a), core::Error);
}

}  // namespace
}  // namespace moesaic::bench
