// One rank gives up while the others wait for it: all must end, with its exit code.
#include "mpi/communicator.hpp"

int main(int argc, char** argv) {
    const moesaic::mpi::Environment environment(argc, argv);
    const auto world = moesaic::mpi::Communicator::world();
    if (world.rank() == world.size() - 1) {
        moesaic::mpi::Environment::abort(5);
    }
    world.barrier();
    return 0;
}
