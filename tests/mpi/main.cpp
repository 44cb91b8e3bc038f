// Main function of every suite that runs under mpirun: rank 0 reports, other ranks speak up only when they fail, and a
// failure on any rank is the result of all.
#include "mpi/communicator.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

namespace {

class FailurePrinter : public testing::EmptyTestEventListener {
public:
    explicit FailurePrinter(int rank) : rank_(rank) {}

private:
    void OnTestStart(const testing::TestInfo& test) override {
        test_ = std::string(test.test_suite_name()) + '.' + test.name();
    }
    void OnTestPartResult(const testing::TestPartResult& result) override {
        if (!result.failed()) {
            return;
        }
        std::ostringstream text;  // one write, so that lines of several ranks do not mix
        text << "rank " << rank_ << ": " << (result.file_name() != nullptr ? result.file_name() : "?") << ':'
             << result.line_number() << ": failure in " << test_ << '\n'
             << result.message() << '\n';
        std::cout << text.str() << std::flush;
    }

    std::string test_ = "the set-up";  // GoogleTest holds a lock while it reports a failure: it cannot be asked then
    int rank_;
};

/// Leaves one report on the terminal and one in the file that --gtest_output names.
void keep_quiet(int rank) {
    testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(std::make_unique<FailurePrinter>(rank).release());  // GoogleTest deletes its listeners
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const moesaic::mpi::Environment environment(argc, argv);
        testing::InitGoogleTest(&argc, argv);
        const auto world = moesaic::mpi::Communicator::world();
        if (!world.is_root()) {
            keep_quiet(world.rank());
        }
        const std::int64_t failed = RUN_ALL_TESTS() != 0 ? 1 : 0;
        const std::int64_t failed_ranks = world.sum(failed);
        if (world.is_root() && failed_ranks > 0) {
            std::cout << failed_ranks << " of " << world.size() << " ranks failed" << std::endl;
        }
        return failed_ranks > 0 ? 1 : 0;
    } catch (const std::exception& error) {
        std::cerr << error.what() << std::endl;
        moesaic::mpi::Environment::abort(1);
    }
}
