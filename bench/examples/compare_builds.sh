#!/usr/bin/env bash
# Is NEW slower than OLD? Runs a deck with both builds in turns, so that drift of the machine hits them alike:
#   bench/examples/compare_builds.sh OLD NEW DECK FOLDER [RUNS]
# OLD and NEW are executables. Results go to FOLDER/old and FOLDER/new. The exit code is 3 if NEW is slower. LAUNCH is put
# before each: LAUNCH="mpirun -n 2 --map-by numa --bind-to numa".
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 OLD NEW DECK FOLDER [RUNS]" >&2
    exit 2
fi
old=$1
new=$2
deck=$3
folder=$4
runs=${5:-12}
read -ra launch <<<"${LAUNCH:-}"

mkdir -p "$folder/old" "$folder/new"
for run in $(seq -w "$runs"); do
    "${launch[@]}" "$old" bench suite "$deck" --output "$folder/old/$run.json" >"$folder/old/$run.txt"
    "${launch[@]}" "$new" bench suite "$deck" --output "$folder/new/$run.json" >"$folder/new/$run.txt"
done
"$new" report --compare "$folder/old" "$folder/new"
