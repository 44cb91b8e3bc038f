#!/usr/bin/env bash
# Runs a command where several hosts are emulated by network namespaces, which end with it:
#   emulated_hosts.sh HOSTS COMMAND...
# The hosts host1, host2, ... have addresses 10.80.0.1, 10.80.0.2, ... on one bridge; the command runs beside them and
# reaches them with $MPIRUN, to which it adds ranks and program. `ip link set link2 down` cuts host2 off.
# Exit code 77 where such namespaces can't be made, else that of the command.
set -euo pipefail

# Launch agent of mpirun: runs a command "on" a host, with a host name and shared memory of its own.
if [ "${1:-}" = --agent ]; then
    shift
    while [[ $1 == -* ]]; do shift; done
    host=$1
    shift
    # shellcheck disable=SC2016  # the inner shell expands them
    exec ip netns exec "$host" unshare --uts --mount sh -c \
        'hostname "$1"; mount -t tmpfs tmpfs /dev/shm; shift; exec sh -c "$*"' sh "$host" "$@"
fi

self=$(realpath "${BASH_SOURCE[0]}")
isolate=(unshare --net --mount --uts --pid --fork --kill-child --mount-proc)
if [ "${1:-}" != --inside ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v ip >/dev/null ||
        ! "${isolate[@]}" sh -c 'ip link add bridge0 type bridge && ip link add veth0 type veth peer name veth1' 2>/dev/null; then
        echo "network namespaces can't be made here: skipped"
        exit 77
    fi
    exec "${isolate[@]}" "$self" --inside "$@"
fi
hosts=$2
shift 2

mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
hostname launcher
ip link set lo up
ip link add bridge0 type bridge
ip addr add 10.80.0.254/24 dev bridge0
ip link set bridge0 up
names=()
for ((i = 1; i <= hosts; i++)); do
    ip netns add "host$i"
    ip link add "link$i" type veth peer name eth0 netns "host$i"
    ip link set "link$i" master bridge0 up
    ip -n "host$i" addr add "10.80.0.$i/24" dev eth0
    ip -n "host$i" link set eth0 up
    ip -n "host$i" link set lo up
    names+=("host$i:64")
done
agent=$(mktemp)
printf '#!/bin/sh\nexec %s --agent "$@"\n' "$self" >"$agent"
chmod +x "$agent"
trap 'rm -f "$agent"' EXIT
MPIRUN="mpirun --mca plm rsh --mca plm_rsh_agent $agent --host $(IFS=, && echo "${names[*]}") --map-by node
        --bind-to none --oversubscribe --mca pml ob1 --mca btl self,vader,tcp"
export MPIRUN OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
"$@"
