#include "core/error.hpp"
#include "mpi/communicator.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

namespace moesaic::mpi {
namespace {

using core::ExitCode;

struct Outcome {
    ExitCode code;
    std::string message;
};

std::optional<Outcome> outcome(const Communicator& group, const std::function<void()>& work) {
    try {
        group.agree(work);
    } catch (const AgreedError& error) {
        return Outcome{error.code(), error.what()};
    }
    return std::nullopt;
}

std::string from_rank(const Communicator& group, int rank, const std::string& message) {
    return group.size() == 1 ? message : fmt::format("rank {}: {}", rank, message);
}

void expect_everywhere(const std::optional<Outcome>& actual, ExitCode code, const std::string& message) {
    ASSERT_TRUE(actual.has_value());
    EXPECT_EQ(actual->code, code);
    EXPECT_EQ(actual->message, message);
    // The group must still be usable and in step.
    EXPECT_EQ(Communicator::world().sum(std::int64_t{1}), Communicator::world().size());
}

TEST(Agree, RunsTheWorkOnceAndReturnsIfNobodyFails) {
    int calls = 0;
    EXPECT_FALSE(outcome(Communicator::world(), [&] { ++calls; }).has_value());
    EXPECT_EQ(calls, 1);
}

TEST(Agree, EveryRankAloneCanFail) {
    const Communicator world = Communicator::world();
    for (int failing = 0; failing < world.size(); ++failing) {
        const auto result = outcome(world, [&] {
            if (world.rank() == failing) {
                core::fail(ExitCode::corrupt_input, "tensor {} is torn (on {}); copy it again", failing, world.rank());
            }
        });
        expect_everywhere(
            result, ExitCode::corrupt_input,
            from_rank(world, failing, fmt::format("tensor {} is torn (on {}); copy it again", failing, failing)));
    }
}

TEST(Agree, TheLowestFailingRankDecidesCodeAndMessage) {
    const Communicator world = Communicator::world();
    const int lowest = world.size() / 2;
    const auto result = outcome(world, [&] {
        if (world.rank() == lowest) {
            core::fail(ExitCode::usage, "short");
        }
        if (world.rank() > lowest) {
            core::fail(ExitCode::corrupt_input, "a message of rank {} that is much longer than the other",
                       world.rank());
        }
    });
    expect_everywhere(result, ExitCode::usage, from_rank(world, lowest, "short"));
}

TEST(Agree, AllRanksCanFailAtOnce) {
    const Communicator world = Communicator::world();
    const auto result = outcome(
        world, [&] { throw core::Error(static_cast<ExitCode>(2 + world.rank()), std::to_string(world.rank())); });
    expect_everywhere(result, ExitCode::usage, from_rank(world, 0, "0"));
}

TEST(Agree, OutOfMemoryIsOutOfResources) {
    const Communicator world = Communicator::world();
    const auto result = outcome(world, [&] {
        if (world.rank() == world.size() - 1) {
            throw std::bad_alloc();
        }
    });
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->code, ExitCode::out_of_resources);
    EXPECT_EQ(result->message.find(from_rank(world, world.size() - 1, "out of memory")), 0U) << result->message;
}

TEST(Agree, ErrorsOfTheFileSystemNameThePath) {
    const Communicator world = Communicator::world();
    const auto result = outcome(world, [&] {
        if (world.is_root()) {
            static_cast<void>(std::filesystem::file_size("/nonexistent/file"));
        }
    });
    expect_everywhere(result, ExitCode::usage,
                      from_rank(world, 0,
                                "can't use /nonexistent/file (No such file or directory); check the path and its "
                                "permissions"));
}

TEST(Agree, OtherExceptionsAreRunTimeFailures) {
    const Communicator world = Communicator::world();
    const bool last = world.rank() == world.size() - 1;
    expect_everywhere(outcome(world,
                              [&] {
                                  if (last) {
                                      throw std::out_of_range("no such row");
                                  }
                              }),
                      ExitCode::runtime_failure, from_rank(world, world.size() - 1, "no such row"));
    const auto unknown = outcome(world, [&] {
        if (last) {
            throw 42;  // NOLINT(hicpp-exception-baseclass)
        }
    });
    ASSERT_TRUE(unknown.has_value());
    EXPECT_EQ(unknown->code, ExitCode::runtime_failure);
}

TEST(Agree, AnEmptyOrLongMessageSurvives) {
    const Communicator world = Communicator::world();
    const std::string text(100000, 'x');
    expect_everywhere(outcome(world, [] { throw std::runtime_error(""); }), ExitCode::runtime_failure,
                      from_rank(world, 0, ""));
    expect_everywhere(outcome(world, [&] { throw std::runtime_error(text); }), ExitCode::runtime_failure,
                      AgreedError(ExitCode::runtime_failure, from_rank(world, 0, text)).what());
}

TEST(Agree, FailuresStayInsideTheirGroup) {
    const Communicator world = Communicator::world();
    const Communicator group = world.split(world.rank() % 2, world.rank());
    const auto result = outcome(group, [&] {
        if (world.rank() % 2 == 1 && group.rank() == group.size() - 1) {
            throw std::runtime_error("odd");
        }
    });
    EXPECT_EQ(result.has_value(), world.rank() % 2 == 1);
    if (result) {
        EXPECT_EQ(result->message, from_rank(group, group.size() - 1, "odd"));
    }
}

}  // namespace
}  // namespace moesaic::mpi
