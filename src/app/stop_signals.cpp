#include "app/stop_signals.hpp"

#include <array>
#include <csignal>

namespace moesaic::app {
namespace {

volatile std::sig_atomic_t arrived = 0;  // written by the handler

void note_signal(int signal) {
    arrived = 1;
    if (signal != SIGUSR1) {  // which launchers may repeat
        std::signal(signal, SIG_DFL);
    }
}

}  // namespace

void listen_for_stop_signals() {
    for (const int signal : std::array{SIGTERM, SIGINT, SIGUSR1, SIGHUP}) {
        std::signal(signal, note_signal);
    }
}

bool stop_signal_arrived() noexcept {
    return arrived != 0;
}

}  // namespace moesaic::app
