// moesaic completion bash
#include "app/command.hpp"
#include "core/error.hpp"

namespace moesaic::app {
namespace {

using core::ExitCode;

/// Asks the program itself, once per command and shell. Options are words that begin with two dashes; what is completed
/// after one of them, and all else, are files.
constexpr std::string_view bash_script = R"script(# Completes commands and options of moesaic, as its help lists them.
declare -gA _moesaic_lists=()

# PROGRAM COMMAND...: sets `list` to what may follow, commands or options.
_moesaic_list() {
    local key=$* before=${*:2}
    if [[ -z ${_moesaic_lists[$key]-} ]]; then
        _moesaic_lists[$key]=$(COLUMNS=200 "$@" --help 2>/dev/null | sed -nE \
            -e "s/^  moesaic ${before:+$before }([a-z]+) .*/\1/p" -e 's/^  (--[a-z0-9_.-]+) .*/\1/p' | uniq)
    fi
    list=${_moesaic_lists[$key]}
}

_moesaic() {
    local program=${1%-run} current=$2 previous=$3 command=() list word
    _moesaic_list "$program"
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $word != -* && $'\n'$list$'\n' == *$'\n'"$word"$'\n'* ]]; then
            command+=("$word")
            _moesaic_list "$program" "${command[@]}"
        fi
    done
    COMPREPLY=()
    if [[ $previous != --* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$list" -- "$current")
    fi
}

complete -o bashdefault -o default -F _moesaic moesaic moesaic-run
)script";

}  // namespace

ExitCode run_completion(const mpi::Communicator& world, Arguments arguments) {
    core::OptionSet options;
    if (asks_for_help(arguments)) {
        print_help(world, "completion", options);
        return ExitCode::success;
    }
    const std::vector<std::string> words = parse(world, options, arguments, false);
    world.agree([&] {
        core::require(words == std::vector<std::string>{"bash"}, ExitCode::usage,
                      "completion needs the name of a shell (bash is the only known one); write moesaic completion "
                      "bash");
    });
    print(world, bash_script);
    return ExitCode::success;
}

}  // namespace moesaic::app
