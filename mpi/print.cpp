#include "mpi/print.hpp"

#include "core/standard_output.hpp"

namespace moesaic::mpi {

void print(const Communicator& world, std::string_view text) {
    if (world.is_root()) {
        core::print(text);
    }
}

}  // namespace moesaic::mpi
