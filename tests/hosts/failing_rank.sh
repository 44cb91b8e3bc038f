#!/usr/bin/env bash
# Training on three ranks, one of which fails; each time another one, at another moment, in every other run while experts
# compute one of two chunks of rows:
#   failing_rank.sh throw|kill|stop|slow TIMES
# The job must end in time with one message and a code other than 0; a rank that is slow is only reported.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

failure=$1
watchdog=2
mpirun=(mpirun -n 3 --oversubscribe --bind-to none)

for ((i = 0; i < $2; i++)); do
    rank=$((i % 3))
    steps=1000
    [ "$failure" != slow ] || steps=8
    export FAILURE=$failure FAILURE_RANK=$rank FAILURE_CALL=$((20 + 7 * i))
    finish_within $((watchdog + 10)) "${mpirun[@]}" -x LD_PRELOAD="${INJECT:?}" \
        "${training[@]}" --train.steps "$steps" --parallel.chunks $((2 - i % 2)) --output.dir "$scratch/run" --output.watchdog "$watchdog"
    case $failure in
    throw) expect_lines 1 "^moesaic: rank $rank: injected failure" && expect_lines 1 '^moesaic:' ;;
    kill) expect_lines 1 "rank $rank .*exited on signal 9" ;;
    stop)
        expect_lines 1 '^moesaic:'
        expect_lines 1 "^moesaic: rank .: no progress for . s in mpi.* of step [0-9]+ \(waiting for rank $rank on "
        ;;
    slow) [ "$code" -eq 0 ] && expect_lines 1 "rank $rank on .* is slow: it computes .* times as long" ;;
    esac
    [ "$failure" = slow ] || [ "$code" -ne 0 ] || fail "exit code 0"
done
echo "$2 times: $failure"
