// Requests to stop from outside: SIGTERM, SIGINT, SIGHUP (a closed terminal) and SIGUSR1 end a run at the next step,
// with a checkpoint.
#pragma once

namespace moesaic::app {

/// From now on these signals set a flag. A second one, unless it is SIGUSR1, ends the process as by default.
void listen_for_stop_signals();
[[nodiscard]] bool stop_signal_arrived() noexcept;

}  // namespace moesaic::app
