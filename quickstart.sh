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

set_mpi_environment
mpirun=(mpirun -n 2)
if [ "$(usable_cores)" -lt 2 ]; then
    # Two ranks take turns on one core: waiting must not keep the other one from working.
    mpirun+=(--oversubscribe --bind-to none)
    export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive
fi

# Every quick start is a new run: without its old folder it can't continue where the last one ended.
rm -rf "$out"
echo
echo "Training: ${mpirun[*]} $moesaic train inputs/quickstart.cfg${*:+ $*}"
"${mpirun[@]}" "$moesaic" train inputs/quickstart.cfg "$@" --output.dir "$out"

# What the run used, options of the command line included.
setting() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" "$out/run.json"; }

echo
echo "Evaluating the adapter that was written to $out/adapter ..."
adapter=$("${mpirun[@]}" "$moesaic" eval --lora.init "$out/adapter" --model.path "$(setting model.path)" \
    --data.eval "$(setting data.eval)" --data.max_length "$(setting data.max_length)" \
    --train.batch_size "$(setting train.batch_size)" --compute.precision "$(setting compute.precision)" \
    --compute.isa "$(setting compute.isa)" | tr -d '\r')

# Loss and exact answers of every evaluation in metrics.jsonl, then of the adapter.
figures() {
    awk '/"eval_loss"/ {
        match($0, /"eval_loss":[^,}]*/);  loss = substr($0, RSTART + 12, RLENGTH - 12)
        match($0, /"eval_exact":[^,}]*/); print loss, substr($0, RSTART + 13, RLENGTH - 13)
    }' "$out/metrics.jsonl" | sed -n '1p;$p'
    awk '/FOM eval_loss/ { loss = $4 } /FOM eval_exact/ { print loss, $4 }' <<<"$adapter"
}
figures | awk '
    BEGIN { name[1] = "before training"; name[2] = "after training"; name[3] = "adapter from disk"
            printf "\n%-18s %9s  %s\n", "", "eval loss", "exact answers" }
    { printf "%-18s %9.4f  %8.1f %%\n", name[NR], $1, $2; loss[NR] = $1 }
    END { difference = loss[3] - loss[2]
          if (NR != 3 || difference * difference > 1e-8) { print "The adapter on disk is not what was trained."; exit 1 } }'
echo
echo "Results are in $out: run.json, metrics.jsonl, adapter/ (for Hugging Face PEFT), checkpoints/,"
echo "report.html, trace.json (open it in https://ui.perfetto.dev). The next quick start replaces them."
