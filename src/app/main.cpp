// Entry point: chooses the sub-command and turns errors into one line and an exit code.
#include "app/command.hpp"
#include "app/stop_signals.hpp"
#include "app/terminal.hpp"
#include "bench/benchmarks.hpp"
#include "core/build_info.hpp"
#include "core/help_text.hpp"
#include "host/limits.hpp"
#include "io/hdf5_version.hpp"
#include "kernels/isa.hpp"
#include "mpi/start_limit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>

namespace moesaic::app {

using core::ExitCode;

const std::vector<Command>& commands() {
    static const std::vector<Command> all = [] {
        std::vector<Command> list = {
            {"train", "[CONFIG] [--section.key VALUE ...]", "fine-tune LoRA factors of the experts", run_train, true},
            {"eval", "[CONFIG] [--section.key VALUE ...]", "loss, perplexity and exact match on a data file", run_eval},
            {"verify", "CASE... [--section.key VALUE ...]", "run reference cases and compare every quantity",
             run_verify},
            {"plan", "[CONFIG] [--section.key VALUE ...]", "memory that a training run needs, without loading weights",
             run_plan},
            {"tune", "[CONFIG] [--section.key VALUE ...]",
             "try grids, chunks, micro-batches and activations on these ranks, and write the fastest", run_tune},
            {"doctor", "[--section.key VALUE ...]", "check this machine: ISA levels, topology, binding, MPI, memory",
             run_doctor},
            {"report", "FOLDER|FILE... | --compare A B ... | --check FILE...",
             "pages about runs and benchmarks (HTML, Markdown, CSV); compare runs or two benchmarks; check results",
             run_report},
        };
        for (const bench::BenchmarkKind& kind : bench::benchmark_kinds()) {
            list.push_back({fmt::format("bench {}", kind.name), "[CONFIG] [--key VALUE ...]", std::string(kind.summary),
                            [&kind](const mpi::Communicator& world, Arguments arguments) {
                                return run_bench(kind, world, arguments);
                            }});
        }
        list.push_back({"bench suite", "DECK [--key VALUE ...]",
                        "measure everything that a deck lists; one headline figure", run_bench_suite});
        list.push_back(
            {"completion", "bash", "a script with which bash completes commands and options", run_completion});
        return list;
    }();
    return all;
}

bool asks_for_help(Arguments arguments) {
    return std::any_of(arguments.begin(), arguments.end(),
                       [](const std::string& word) { return word == "--help" || word == "-h"; });
}

/// Text that is broken into lines for the terminal.
std::string paragraph(std::string_view text) {
    return fmt::format("{}\n", fmt::join(core::wrap(text, columns_for_reading()), "\n"));
}

void print_help(const mpi::Communicator& world, std::string_view command, const core::OptionSet& options) {
    const auto found =
        std::find_if(commands().begin(), commands().end(), [&](const Command& known) { return known.name == command; });
    const bool takes_config = found->usage.starts_with("[CONFIG]");
    const std::string about_files =
        fmt::format("A configuration file, {}, has the same keys in [section] blocks; the command line wins.",
                    takes_config ? "CONFIG or --config FILE" : "--config FILE");
    const std::string usage = fmt::format("moesaic {} {}", found->name, found->usage);
    print(world, fmt::format("{}\n{}", paragraph(usage), paragraph(found->summary)));
    if (!options.keys().empty()) {
        print(world, fmt::format("\n{}{}", paragraph(about_files), options.help(columns_for_reading())));
    }
}

std::vector<std::string> parse(const mpi::Communicator& world, core::OptionSet& options, Arguments arguments,
                               bool first_word_is_config) {
    std::vector<std::string> words;
    const mpi::StartLimit limit;
    world.agree([&] { words = options.parse(arguments, first_word_is_config); });
    return words;
}

bool parse_options_only(const mpi::Communicator& world, std::string_view command, core::OptionSet& options,
                        Arguments arguments) {
    if (asks_for_help(arguments)) {
        print_help(world, command, options);
        return false;
    }
    const auto words = parse(world, options, arguments, true);
    world.agree([&] {
        core::require(words.empty(), ExitCode::usage,
                      "unexpected argument {} (options are written --section.key VALUE); remove it",
                      words.empty() ? "" : words.front());
    });
    return true;
}

namespace {

/// Names and summaries of the commands whose name begins with `group`.
std::string list_commands(std::string_view group) {
    constexpr std::size_t begin = 30;  // of the summaries
    std::string text;
    for (const Command& command : commands()) {
        if (command.name.starts_with(group)) {
            text += core::help_row("moesaic " + command.name, command.summary, begin, columns_for_reading());
        }
    }
    return text;
}

std::string overview() {
    return fmt::format(
        "{}\n{}\n{}",
        paragraph(
            "moesaic fine-tunes the experts of Mixture-of-Experts language models with LoRA on CPU clusters. Run it "
            "alone, or on several ranks with moesaic-run, mpirun or srun."),
        list_commands(""),
        paragraph("moesaic help COMMAND lists the options of a command; moesaic --version says how it was built."));
}

std::string version() {
    std::string levels;
    for (const kernels::Level& level : kernels::levels()) {
        if (kernels::is_built_in(level.isa)) {
            levels += fmt::format("{}{}", levels.empty() ? "" : ", ", level.name);
        }
    }
    return fmt::format("moesaic {} ({})\ncompiler: {}, {} {}\nMPI: {}\nHDF5: {}\nISA levels built in: {}\n",
                       core::build_info::version, core::build_info::git_revision, core::build_info::compiler,
                       core::build_info::build_type, core::build_info::flags, mpi::Environment::library_version(),
                       io::hdf5_version(), levels);
}

ExitCode dispatch(const mpi::Communicator& world, const std::vector<std::string>& arguments) {
    if (arguments.size() > 1 && arguments[0] == "help") {  // the same as COMMAND --help
        std::vector<std::string> command(arguments.begin() + 1, arguments.end());
        command.emplace_back("--help");
        return dispatch(world, command);
    }
    if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
        print(world, overview());
        return arguments.empty() ? ExitCode::usage : ExitCode::success;
    }
    if (arguments[0] == "--version") {
        print(world, version());
        return ExitCode::success;
    }
    const std::string group = list_commands(arguments[0] + " ");
    if (!group.empty() && (arguments.size() == 1 || arguments[1].starts_with('-'))) {
        print(world, group);
        return asks_for_help(arguments) ? ExitCode::success : ExitCode::usage;
    }
    const std::size_t words = group.empty() ? 1 : 2;
    const std::string name = fmt::format("{}", fmt::join(Arguments(arguments).first(words), " "));
    for (const Command& command : commands()) {
        if (command.name == name) {
            return command.run(world, Arguments(arguments).subspan(words));
        }
    }
    world.agree([&] {
        std::vector<std::string> names;
        std::transform(commands().begin(), commands().end(), std::back_inserter(names),
                       [](const Command& command) { return std::string(command.name); });
        const std::string near = core::nearest(name, names);
        core::fail(ExitCode::usage, "unknown command {} (commands are {}); {}", name, fmt::join(names, ", "),
                   near.empty() ? "see moesaic --help" : "did you mean " + near + "?");
    });
    return ExitCode::usage;
}

bool stops_on_request(const std::vector<std::string>& arguments) {
    return !arguments.empty() && std::any_of(commands().begin(), commands().end(), [&](const Command& command) {
        return command.name == arguments.front() && command.stops_on_request;
    });
}

/// Set by the first error that ends the process: what fails while it ends has nothing to add.
std::atomic_flag is_ending;

/// Prints the error of this rank alone and ends the other ranks, which do not know of it.
int end_all_ranks(const mpi::Communicator& world, ExitCode code, std::string_view message) {
    is_ending.test_and_set();
    if (world.size() == 1) {
        fmt::print(stderr, "moesaic: {}\n", message);
        return static_cast<int>(code);
    }
    fmt::print(stderr, "moesaic: rank {}: {}\n", world.rank(), message);
    std::fflush(stderr);
    mpi::Environment::abort(static_cast<int>(code));
}

int run(const mpi::Communicator& world, const std::vector<std::string>& arguments) {
    try {
        return static_cast<int>(dispatch(world, arguments));
    } catch (const mpi::AgreedError& error) {
        if (world.is_root()) {
            fmt::print(stderr, "moesaic: {}\n", error.what());
        }
        return static_cast<int>(error.code());
    } catch (const core::Error& error) {
        return end_all_ranks(world, error.code(), error.what());
    } catch (const std::bad_alloc&) {
        return end_all_ranks(world, ExitCode::out_of_resources, host::out_of_memory_message());
    } catch (const std::exception& error) {
        return end_all_ranks(world, ExitCode::runtime_failure, error.what());
    }
}

/// Ends the process when an error met one that can't be caught, such as memory that a destructor asked for and did not
/// get. There may be none for a longer message either.
[[noreturn]] void end_on_terminate() noexcept {
    const char* message = "ended for an unknown reason; this is a defect, please report it";
    ExitCode code = ExitCode::runtime_failure;
    const std::exception_ptr error = std::current_exception();
    try {
        if (error) {
            std::rethrow_exception(error);
        }
    } catch (const std::bad_alloc&) {
        code = ExitCode::out_of_resources;
        message = core::out_of_memory_message;
    } catch (const std::exception& known) {
        message = known.what();
    } catch (...) {
    }
    if (!is_ending.test_and_set()) {
        std::fprintf(stderr, "moesaic: %s\n", message);
    }
    mpi::Environment::abort(static_cast<int>(code));
}

}  // namespace
}  // namespace moesaic::app

int main(int argc, char** argv) {
    std::set_terminate([] { moesaic::app::end_on_terminate(); });
    // A closed pipe and a limit on the size of files are errors of the call that meets them.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (moesaic::app::stops_on_request(arguments)) {
        moesaic::app::listen_for_stop_signals();
    }
    std::optional<moesaic::mpi::StartLimit> limit(std::in_place);
    const moesaic::mpi::Environment environment(argc, argv);
    limit.reset();
    return moesaic::app::run(moesaic::mpi::Communicator::world(), arguments);
}
