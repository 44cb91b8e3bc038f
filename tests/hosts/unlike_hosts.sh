#!/usr/bin/env bash
# Inside emulated_hosts.sh: doctor tells hosts apart that have different numbers of cores.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

# shellcheck disable=SC2016  # the inner shell expands them
on_unlike_hosts='[ "$(hostname)" = host1 ] && cores=4 || cores=8
                 HWLOC_SYNTHETIC="numa:1 core:$cores pu:1" exec "$0" "$@"'
# shellcheck disable=SC2086  # a command with its options
finish_within 60 ${MPIRUN:?} -q -n 2 sh -c "$on_unlike_hosts" "$MOESAIC" doctor
[ "$code" -eq 0 ] || fail "exit code $code"
expect_lines 1 '^warning: rank 1: it has another number of cores than rank 0 \(8, not 4\)'
echo "differences are told"
