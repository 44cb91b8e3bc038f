#!/usr/bin/env bash
# Where ranks of a host find no room for shared memory, a run says so, and has the losses of one that has room.
# Exit code 77 where no other /dev/shm can be mounted.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"

losses() { sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$scratch/$1/metrics.jsonl"; }

small_memory=(unshare --mount sh -c 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" "$@"')
if ! "${small_memory[@]}" true 2>/dev/null; then
    echo "nothing can be mounted here: skipped"
    exit 77
fi
run=(mpirun -q -n 2 --oversubscribe --bind-to none "${training[@]}" --train.steps 5 --parallel.tensor 2 --output.dir)
finish_within 60 "${run[@]}" "$scratch/room"
[ "$code" -eq 0 ] || fail "with room: exit code $code"
expect_lines 0 'rows travel through MPI alone'
finish_within 60 "${small_memory[@]}" "${run[@]}" "$scratch/no_room"
[ "$code" -eq 0 ] || fail "without room: exit code $code"
expect_lines 1 "^warning: rows travel through MPI alone, .*can't share 2 MiB of memory \(/dev/shm: [01] MiB are left\)"
paste <(losses room) <(losses no_room) | awk '
    { difference = $1 - $2; if (difference < 0) difference = -difference; if (!(difference <= 1e-5 * $1)) bad = 1 }
    END { exit bad || NR != 5 }' || fail "losses differ: $(losses room) and $(losses no_room)"
echo "same losses without shared memory"
