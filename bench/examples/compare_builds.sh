#!/usr/bin/env bash
# Is NEW slower than OLD? Runs a deck with both builds, which measure in turns, round by round, so that drift of the
# machine hits them alike:
#   bench/examples/compare_builds.sh OLD NEW DECK FOLDER [ROUNDS]
# OLD and NEW are executables. Results go to FOLDER/old.json and FOLDER/new.json. The exit code is 3 if NEW is slower.
# LAUNCH is put before each: LAUNCH="mpirun -n 2 --map-by numa --bind-to numa".
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 OLD NEW DECK FOLDER [ROUNDS]" >&2
    exit 2
fi
old=$1
new=$2
deck=$3
folder=$4
rounds=${5:-40}
read -ra launch <<<"${LAUNCH:-}"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # threads that spin would disturb the other build

mkdir -p "$folder"
pipes=$(mktemp -d)
trap 'rm -rf "$pipes"; kill $(jobs -p) 2>/dev/null || true' EXIT
mkfifo "$pipes/old" "$pipes/new"
exec 3<>"$pipes/old"
printf t >&3 # OLD begins

run() { # NAME EXECUTABLE OTHER
    "${launch[@]}" "$2" bench suite "$deck" --rounds "$rounds" --repeat "$rounds" --seconds 0 \
        --turns "$pipes/$1,$pipes/$3" --output "$folder/$1.json" >"$folder/$1.txt"
}
run old "$old" new &
run new "$new" old &
wait -n
wait -n
"$new" report --compare "$folder/old.json" "$folder/new.json"
