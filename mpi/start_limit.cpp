#include "mpi/start_limit.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.hpp"

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <string>

namespace moesaic::mpi {
namespace {

std::string message;  // written before the signal handler can run

void end_process(int /*signal*/) {
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
    std::_Exit(static_cast<int>(core::ExitCode::runtime_failure));
}

}  // namespace

StartLimit::StartLimit(double seconds) {
    const auto whole = static_cast<unsigned>(std::ceil(seconds));
    message = fmt::format(
        "moesaic: not all ranks have started within {} s (one of them or its host hangs, or the network does); see "
        "what "
        "became of the ranks and their hosts\n",
        whole);
    if (whole > 0) {
        std::signal(SIGALRM, end_process);
        ::alarm(whole);
    }
}

StartLimit::~StartLimit() {
    ::alarm(0);
    std::signal(SIGALRM, SIG_DFL);
}

}  // namespace moesaic::mpi
