# Shared by the batch scripts, which source it from the folder `here`: it sets `launch`, the command that starts the ranks
# on all nodes of the job, and `moesaic`, the executable ($MOESAIC, or that of the release build).
# shellcheck shell=bash

# shellcheck disable=SC2154  # of the scripts that source this
moesaic=${MOESAIC:-${here%/*}/build/release/bin/moesaic}
if [ ! -x "$moesaic" ]; then
    echo "$moesaic is no executable; build it, or set MOESAIC" >&2
    exit 2
fi
if [ -z "${SLURM_JOB_NUM_NODES:-}" ]; then
    echo "no Slurm job; submit this script with sbatch" >&2
    exit 2
fi

# NUMA nodes with cores, of the node that runs this script; those of a partition are alike.
numa_nodes() {
    local node count=0
    for node in /sys/devices/system/node/node[0-9]*/cpulist; do
        if [ -s "$node" ] && [ -n "$(tr -d '[:space:]' <"$node")" ]; then
            count=$((count + 1))
        fi
    done
    echo $((count > 0 ? count : 1))
}

# What the user asked for, with RANKS_PER_NODE or options of sbatch, else one rank per NUMA node.
per_node=${RANKS_PER_NODE:-${SLURM_NTASKS_PER_NODE:-}}
if [ -z "$per_node" ] && [ -n "${SLURM_NTASKS:-}" ]; then
    if [ $((SLURM_NTASKS % SLURM_JOB_NUM_NODES)) -ne 0 ]; then
        echo "$SLURM_NTASKS tasks can't be shared out evenly among $SLURM_JOB_NUM_NODES nodes; ask for --ntasks-per-node" >&2
        exit 2
    fi
    per_node=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
fi
per_node=${per_node:-$(numa_nodes)}
ranks=$((per_node * SLURM_JOB_NUM_NODES))

# shellcheck disable=SC2034  # for the scripts that source this
if srun --mpi=list 2>&1 | grep -w pmix >/dev/null; then # not -q, which ends before srun does
    # --exclusive off: the step has all CPUs of the job, and moesaic shares them out among its ranks.
    launch=(srun --mpi=pmix --ntasks="$ranks" --ntasks-per-node="$per_node" --cpu-bind=none --kill-on-bad-exit=1)
else
    # mpirun notices a host that is cut off only by its own keep-alive messages; the watchdog is for the ranks.
    export OMPI_MCA_oob_tcp_keepalive_time=60 OMPI_MCA_oob_tcp_keepalive_intvl=10 OMPI_MCA_oob_tcp_keepalive_probes=6
    launch=(mpirun -n "$ranks" --map-by "ppr:$per_node:node" --bind-to none)
fi
