#!/usr/bin/env bash
# Inside emulated_hosts.sh: training on four ranks of several hosts, where rows travel in two chunks and ranks of a host
# share weights, has the losses of four ranks of one host.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

losses() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$scratch/$1/metrics.jsonl"; }

options=(--train.steps 5 --parallel.tensor 2)
finish_within 60 mpirun -q -n 4 --oversubscribe --bind-to none "${training[@]}" "${options[@]}" --output.dir "$scratch/one"
[ "$code" -eq 0 ] || fail "one host: exit code $code"
# shellcheck disable=SC2086  # a command with its options
finish_within 100 ${MPIRUN:?} -n 4 "${training[@]}" "${options[@]}" --parallel.chunks 2 --model.share host \
    --output.dir "$scratch/several"
[ "$code" -eq 0 ] || fail "several hosts: exit code $code"

used=$(grep -o '"host": "host[0-9]*"' "$scratch/several/run.json" | sort -u | wc -l)
[ "$used" -eq "$(ip netns list | wc -l)" ] || fail "$used hosts were used"
paste <(losses one) <(losses several) | awk '
    { difference = $1 - $2; if (difference < 0) difference = -difference; if (!(difference <= 1e-5 * $1)) bad = 1 }
    END { exit bad || NR != 5 }' || fail "losses differ: $(losses one) and $(losses several)"
echo "same losses on $used hosts"
