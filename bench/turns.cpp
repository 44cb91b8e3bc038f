#include "bench/turns.hpp"

#include "core/error.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace moesaic::bench {
namespace {

constexpr char ready = 'r';
constexpr char turn = 't';
constexpr char end = 'e';

/// For reading and writing, so that neither opening nor writing waits for the other run.
int open_pipe(const std::string& path) {
    const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct stat status {};
    const bool is_pipe = file >= 0 && fstat(file, &status) == 0 && S_ISFIFO(status.st_mode);
    if (!is_pipe && file >= 0) {
        close(file);
    }
    core::require(is_pipe, core::ExitCode::usage, "{} is no named pipe that can be opened; make one with mkfifo", path);
    return file;
}

}  // namespace

Turns::Turns(const std::string& pipes) {
    const std::size_t comma = pipes.find(',');
    core::require(comma != std::string::npos, core::ExitCode::usage,
                  "turns = {} is not GET,GIVE (the paths of two named pipes); make them with mkfifo", pipes);
    get_ = open_pipe(pipes.substr(0, comma));
    try {
        give_ = open_pipe(pipes.substr(comma + 1));
    } catch (...) {
        close(get_);
        throw;
    }
}

Turns::~Turns() {
    static_cast<void>(write(give_, &end, 1));
    close(give_);
    close(get_);
}

void Turns::put(char message) const {
    core::require(write(give_, &message, 1) == 1, core::ExitCode::out_of_resources,
                  "can't pass the turn to the other run ({}); start both again", std::strerror(errno));
}

void Turns::take() {
    if (!announced_) {
        put(ready);
        announced_ = true;
    }
    while (!other_has_ended_ && !(other_is_ready_ && has_turn_)) {
        char message = 0;
        const ssize_t bytes = read(get_, &message, 1);
        if (bytes < 0 && errno == EINTR) {
            continue;
        }
        core::require(bytes == 1, core::ExitCode::out_of_resources,
                      "can't get the turn from the other run ({}); start both again", std::strerror(errno));
        other_is_ready_ = other_is_ready_ || message == ready;
        has_turn_ = has_turn_ || message == turn;
        other_has_ended_ = message == end;
    }
}

void Turns::pass() {
    has_turn_ = false;
    put(turn);
}

}  // namespace moesaic::bench
