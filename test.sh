#!/usr/bin/env bash
# Builds and runs the tests:
#   ./test.sh                            all tests, after the suites without MPI under the sanitizers and a check of all
#                                        sources by clang, whose warnings differ from those of GCC
#   ./test.sh PRESET [CTEST OPTION...]   one preset of CMakePresets.json, for example ./test.sh asan -R io_
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=cmake/setup.sh
source cmake/setup.sh

# Suites without MPI: fast under the sanitizers, and where raw memory and untrusted files are handled.
sanitized=(core io host kernels)

# Number and names of the cases that tests skipped inside ctest's log, which holds the output of all tests, and whether
# some ran in emulation.
report_skipped() {
    local log="build/$1/Testing/Temporary/LastTest.log"
    local cases whole emulated
    cases=$(tr -d '\r' <"$log" | sed -n 's/^\[  SKIPPED \] \(.*\) ([0-9]* ms)$/\1/p' | sort | uniq -c | sort -k2)
    whole=$(grep -cE '^(Skip regular expression found|SKIP_RETURN_CODE)' "$log") || true
    echo "Skipped: $(awk '{ n += $1 } END { print n + 0 }' <<<"$cases") test cases in suites that ran, $whole whole tests"
    if [ -n "$cases" ]; then
        awk '{ print "  " $2 ($1 > 1 ? " (" $1 " times)" : "") }' <<<"$cases"
    fi
    emulated=$(tr -d '\r' <"$log" | sed -n 's/^\[ EMULATED \] //p' | sort -u)
    if [ -n "$emulated" ]; then
        echo "Emulated: $emulated"
    fi
}

# run_tests PRESET [CTEST OPTION...]; suites say how many processors they need.
run_tests() {
    local preset=$1 code=0
    shift
    ctest --preset "$preset" --parallel "$(nproc)" --output-on-failure "$@" || code=$?
    report_skipped "$preset"
    return "$code"
}

if [ $# -eq 0 ]; then
    packages+=(clang-14 libomp-14-dev)
fi
install_packages
set_mpi_environment
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # threads that spin make a busy machine slower still

failed=0
if [ $# -eq 0 ]; then
    echo "== Suites without MPI under AddressSanitizer and UndefinedBehaviorSanitizer"
    targets=()
    for suite in "${sanitized[@]}"; do
        if [ -e "tests/$suite/CMakeLists.txt" ]; then
            targets+=("tests/$suite/all")
        fi
    done
    build asan "${targets[@]}"
    run_tests asan -R "^($(IFS='|' && echo "${sanitized[*]}"))_" || failed=1
    echo
    echo "== Warnings of clang"
    if command -v dpkg-query >/dev/null; then
        build clang || failed=1
    else
        echo "left out: no Debian package manager here, so that clang-14 may be missing"
    fi
    echo
    echo "== All tests"
    set -- release
elif [[ $1 == -* ]]; then
    set -- release "$@"
fi
build "$1"
# MPI_Finalize unloads the plug-ins of Open MPI, so that their leaks can't be told from ours and no suppression by name
# applies: with MPI, only other errors count. Leaks are looked for above.
ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}" run_tests "$@" || failed=1
exit "$failed"
