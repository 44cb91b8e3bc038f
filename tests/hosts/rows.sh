#!/usr/bin/env bash
# Inside emulated_hosts.sh: collectives on rows where some ranks share a host and others don't.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

for ranks in 3 4; do  # unequally and equally many on the hosts
    # shellcheck disable=SC2086  # a command with its options
    finish_within 100 ${MPIRUN:?} -q -n $ranks "${COLLECTIVES:?}" --gtest_filter='*Rows*'
    [ "$code" -eq 0 ] || fail "$ranks ranks: exit code $code"
done
echo "all rows arrived"
