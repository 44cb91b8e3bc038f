// The sub-commands of the `moesaic` executable, one file each.
#pragma once

#include "core/error.hpp"
#include "mpi/communicator.hpp"

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::app {

using Arguments = std::span<const std::string>;

struct BenchmarkKind;

/// A sub-command. `run` is called on all ranks and returns the exit code; errors are thrown.
struct Command {
    std::string name;   ///< one word, or two where the first stands for a group of commands
    std::string usage;  ///< what follows the name on the command line
    std::string summary;
    std::function<core::ExitCode(const mpi::Communicator& world, Arguments arguments)> run;
};

[[nodiscard]] const std::vector<Command>& commands();

core::ExitCode run_train(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_eval(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_verify(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_report(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_doctor(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_plan(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_bench_suite(const mpi::Communicator& world, Arguments arguments);
/// One benchmark of the list.
core::ExitCode run_bench(const BenchmarkKind& kind, const mpi::Communicator& world, Arguments arguments);

/// Prints on rank 0 only.
void print(const mpi::Communicator& world, std::string_view text);

/// True if --help or -h is among the arguments.
[[nodiscard]] bool asks_for_help(Arguments arguments);
/// Prints usage, summary and the options of a command on rank 0.
void print_help(const mpi::Communicator& world, std::string_view command, std::string_view options);

}  // namespace moesaic::app
