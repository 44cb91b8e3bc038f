#!/usr/bin/env bash
# Inside emulated_hosts.sh with two hosts: the second one is cut off in the middle of training. The job must end with one
# message, that of the watchdog or of mpirun, whichever notices first, and a code other than 0:
#   cut_link.sh watchdog|mpirun TIMES
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

cut_while_training() {
    until [ -s "$scratch/run/metrics.jsonl" ]; do sleep 0.1; done
    sleep "1.$((i % 10))"  # ranks have heard of each other
    ip link set link2 down
    if [ "$1" = watchdog ]; then
        # All ranks end, but mpirun waits for the host that it can't reach, until TCP gives up: shorten that.
        until grep -q '^moesaic: rank 0: ' "$scratch/log"; do sleep 0.1; done
        ip link set link2 up
    fi
}

watchdog=3
if [ "$1" = mpirun ]; then
    watchdog=600
    export OMPI_MCA_oob_tcp_keepalive_time=2 OMPI_MCA_oob_tcp_keepalive_intvl=1 OMPI_MCA_oob_tcp_keepalive_probes=2
fi

for ((i = 0; i < $2; i++)); do
    rm -rf "$scratch/run" "$scratch/log"
    ip link set link2 up
    cut_while_training "$1" &
    # shellcheck disable=SC2086  # a command with its options
    finish_within 60 ${MPIRUN:?} -n 4 "${training[@]}" --train.steps 100000 --output.dir "$scratch/run" \
        --output.watchdog "$watchdog"
    wait $!
    [ "$code" -ne 0 ] || fail "exit code 0"
    if [ "$1" = watchdog ]; then
        expect_lines 1 '^moesaic: rank 0: no progress for . s in mpi.* \(waiting for rank 1 on host2: (silent for|never heard of)'
    else
        expect_lines 1 'lost communication with a remote daemon'
        expect_lines 0 '^moesaic: '
    fi
done
echo "$2 times: cut link, noticed by $1"
