#include "mpi/print.hpp"

#include <fmt/format.h>

#include <cstdio>

namespace moesaic::mpi {

void print(const Communicator& world, std::string_view text) {
    if (world.is_root()) {
        fmt::print("{}", text);
        std::fflush(stdout);
    }
}

}  // namespace moesaic::mpi
