#!/usr/bin/env bash
# Builds moesaic, fine-tunes a small model on two MPI ranks and shows what it learned. Options go to `moesaic train`:
#   ./quickstart.sh --train.epochs 1
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source=cmake/setup.sh
source cmake/setup.sh

moesaic=build/release/bin/moesaic
out=runs/quickstart

for argument in "$@"; do
    if [ "$argument" = --help ] || [ "$argument" = -h ]; then
        sed -n '2,3s/^# //p' quickstart.sh
        echo "moesaic train --help lists the options."
        exit
    fi
done

install_packages
echo "Building $moesaic (the first time takes a few minutes) ..."
build release moesaic

run=(build/release/bin/moesaic-run -n 2)

# Every quick start is a new run: without its old folder it can't continue where the last one ended. The old one goes once
# it is certain that a new one begins.
"${run[@]}" plan inputs/quickstart.cfg "$@" >/dev/null
rm -rf "$out"
echo
echo "Training: ${run[*]} train inputs/quickstart.cfg${*:+ $*}"
"${run[@]}" train inputs/quickstart.cfg "$@" --output.dir "$out"

echo
echo "Evaluating the adapter that was written to $out/adapter ..."
adapter=$("${run[@]}" eval "$out/run.cfg" --lora.init "$out/adapter" | tr -d '\r')

# Loss and exact answers of the first evaluation in metrics.jsonl and of the best one, then of the adapter.
figures() {
    awk '/"eval_loss"/ {
        match($0, /"eval_loss":[^,}]*/);  loss = substr($0, RSTART + 12, RLENGTH - 12)
        match($0, /"eval_exact":[^,}]*/); line = loss " " substr($0, RSTART + 13, RLENGTH - 13)
        if (!seen++) print line; else if (best == "" || loss < lowest) { lowest = loss; best = line }
    } END { print best }' "$out/metrics.jsonl"
    awk '/FOM eval_loss/ { loss = $4 } /FOM eval_exact/ { print loss, $4 }' <<<"$adapter"
}
figures | awk '
    BEGIN { name[1] = "before training"; name[2] = "after training"; name[3] = "adapter from disk"
            printf "\n%-18s %9s  %s\n", "", "eval loss", "exact answers" }
    { printf "%-18s %9.4f  %8.2f %%\n", name[NR], $1, $2; loss[NR] = $1 }
    END { difference = loss[3] - loss[2]
          if (NR != 3 || difference * difference > 1e-8) { print "The adapter on disk is not what was trained."; exit 1 } }'
echo
echo "Results are in $out: run.json, metrics.jsonl, adapter/ (for Hugging Face PEFT), checkpoints/,"
echo "report.html, trace.json (open it in https://ui.perfetto.dev). The next quick start replaces them."
