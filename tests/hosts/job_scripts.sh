#!/usr/bin/env bash
# The batch scripts of slurm/ with stand-ins for moesaic and the commands of Slurm: where they find their parts, how many
# ranks they start, and when a job goes back into the queue.
set -euo pipefail
# shellcheck source=tests/hosts/support.sh
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
slurm=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../slurm")

mkdir "$scratch/bin" "$scratch/else where"
cat >"$scratch/bin/srun" <<'STAND_IN'
#!/usr/bin/env bash
[ "$1" != --mpi=list ] || { echo pmix; exit; }
while [[ $1 == -* ]]; do shift; done
exec "$@"
STAND_IN
cat >"$scratch/bin/scontrol" <<'STAND_IN'
#!/usr/bin/env bash
[ "$1" != requeue ] || touch "$SCRATCH/requeued"
printf '   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=%s\n   Command=%s a.sbatch b\n' "${PREEMPTED:-None}" "$COMMAND"
STAND_IN
cat >"$scratch/bin/moesaic" <<'STAND_IN'
#!/usr/bin/env bash
trap 'exit 75' USR1
touch "$SCRATCH/runs"
[ "$1" = bench ] || for ((i = 0; i < 100; i++)); do sleep 0.1; done
STAND_IN
chmod +x "$scratch"/bin/*
export PATH="$scratch/bin:$PATH" SCRATCH=$scratch MOESAIC=$scratch/bin/moesaic
export SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_SUBMIT_DIR="$scratch/else where"
unset SLURM_NTASKS SLURM_NTASKS_PER_NODE RANKS_PER_NODE PREEMPTED
cd "$SLURM_SUBMIT_DIR"

# As Slurm does, runs a copy of the script.
cp "$slurm/train.sbatch" "$scratch/train"
cp "$slurm/bench.sbatch" "$scratch/bench"

# train_until SIGNAL: the job's script gets it while the run is under way.
train_until() {
    rm -f "$scratch/runs" "$scratch/requeued"
    COMMAND="$slurm/train.sbatch" bash "$scratch/train" CONFIG >"$scratch/log" 2>&1 &
    local script=$!
    while [ ! -e "$scratch/runs" ]; do sleep 0.05; done
    kill "-$1" "$script"
    code=0
    wait "$script" || code=$?
    [ "$code" -eq 75 ] || fail "$1: exit code $code"
}
train_until USR1
[ -e "$scratch/requeued" ] || fail "not requeued before the time limit"
train_until TERM
[ ! -e "$scratch/requeued" ] || fail "requeued after scancel"
PREEMPTED=2026-01-01T00:00:00 train_until TERM
[ -e "$scratch/requeued" ] || fail "not requeued after a preemption"

# ranks EXPECTED [NAME=VALUE ...]: what the launcher is given.
ranks() {
    finish_within 20 env COMMAND="$slurm/bench.sbatch" "${@:2}" bash "$scratch/bench" machine
    [ "$code" -eq 0 ] || fail "exit code $code"
    expect_lines 1 "^srun .*--ntasks=$1 "
}
ranks 6 SLURM_NTASKS_PER_NODE=3 SLURM_NTASKS=6
ranks 8 SLURM_NTASKS=8
ranks 10 SLURM_NTASKS_PER_NODE=3 RANKS_PER_NODE=5
finish_within 20 env COMMAND="$slurm/bench.sbatch" SLURM_NTASKS=3 bash "$scratch/bench" machine
[ "$code" -eq 2 ] || fail "three tasks on two nodes: exit code $code"
finish_within 20 env COMMAND=/nowhere/bench.sbatch bash "$scratch/bench" machine
[ "$code" -eq 2 ] || fail "no environment.sh: exit code $code"
expect_lines 1 'submit slurm/bench.sbatch'
echo "the job scripts do as they are told"
