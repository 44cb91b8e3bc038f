// A folder for tests that run on several ranks.
#pragma once

#include "mpi/communicator.hpp"

#include <unistd.h>

#include <filesystem>
#include <string>

namespace moesaic::test {

using mpi::Communicator;

/// A folder that all ranks of the world share for the time of a test.
class SharedFolder {
public:
    SharedFolder() {
        path_ = (std::filesystem::temp_directory_path() / ("moesaic-train-test-" + std::to_string(getpid()))).string();
        Communicator::world().broadcast(path_);
        if (Communicator::world().is_root()) {
            std::filesystem::create_directories(path_);
        }
        Communicator::world().barrier();
    }
    ~SharedFolder() {
        Communicator::world().barrier();
        if (Communicator::world().is_root()) {
            std::filesystem::remove_all(path_);
        }
    }
    [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
        return std::filesystem::path(path_) / name;
    }

private:
    std::string path_;
};

}  // namespace moesaic::test
