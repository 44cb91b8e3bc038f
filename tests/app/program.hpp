// Runs the executable as a user does.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace moesaic::app::test {

struct Result {
    int exit_code = -1;
    std::string output;  ///< standard output and error
};

inline Result shell(const std::string& command) {
    Result result;
    std::FILE* pipe = popen(("{ " + command + "\n} 2>&1").c_str(), "r");
    std::array<char, 4096> part{};
    for (std::size_t n = 0; (n = fread(part.data(), 1, part.size(), pipe)) > 0;) {
        result.output.append(part.data(), n);
    }
    const int status = pclose(pipe);
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
}

/// Runs moesaic on `ranks` ranks.
inline Result moesaic(int ranks, const std::string& arguments) {
    return shell(std::string(MOESAIC_MPIRUN) + " -q -n " + std::to_string(ranks) + " --oversubscribe --bind-to none " +
                 MOESAIC_PROGRAM + " " + arguments);
}

/// The same on one rank without mpirun, which waits for two seconds after each error.
inline Result alone(const std::string& arguments) {
    return shell(std::string(MOESAIC_PROGRAM) + " " + arguments);
}

/// Lines that the program itself wrote as an error.
inline std::vector<std::string> error_lines(const std::string& output) {
    std::vector<std::string> lines;
    std::istringstream stream(output);
    for (std::string line; std::getline(stream, line);) {
        if (line.starts_with("moesaic: ")) {
            lines.push_back(line);
        }
    }
    return lines;
}

}  // namespace moesaic::app::test
