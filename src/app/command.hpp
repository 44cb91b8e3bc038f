// The sub-commands of the `moesaic` executable, one file each.
#pragma once

#include "core/error.hpp"
#include "core/options.hpp"
#include "mpi/print.hpp"

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesaic::bench {
struct BenchmarkKind;
}

namespace moesaic::app {

using Arguments = std::span<const std::string>;

/// A sub-command. `run` is called on all ranks and returns the exit code; errors are thrown.
struct Command {
    std::string name;   ///< one word, or two where the first stands for a group of commands
    std::string usage;  ///< what follows the name on the command line
    std::string summary;
    std::function<core::ExitCode(const mpi::Communicator& world, Arguments arguments)> run;
    bool stops_on_request = false;  ///< signals to stop are listened to from the beginning
};

[[nodiscard]] const std::vector<Command>& commands();

core::ExitCode run_train(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_eval(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_verify(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_report(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_doctor(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_plan(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_tune(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_completion(const mpi::Communicator& world, Arguments arguments);
core::ExitCode run_bench_suite(const mpi::Communicator& world, Arguments arguments);
/// One benchmark of the list.
core::ExitCode run_bench(const bench::BenchmarkKind& kind, const mpi::Communicator& world, Arguments arguments);

/// True if --help or -h is among the arguments.
[[nodiscard]] bool asks_for_help(Arguments arguments);
/// Prints usage, summary and the options of a command on rank 0.
void print_help(const mpi::Communicator& world, std::string_view command, const core::OptionSet& options);

/// Collective. Parses the arguments of a command; every rank gets the same result or the same usage error.
std::vector<std::string> parse(const mpi::Communicator& world, core::OptionSet& options, Arguments arguments,
                               bool first_word_is_config);

/// Collective. Parses the arguments of a command whose only word may be a configuration file. Returns false if the user
/// asked for help, which is printed instead.
bool parse_options_only(const mpi::Communicator& world, std::string_view command, core::OptionSet& options,
                        Arguments arguments);

}  // namespace moesaic::app
