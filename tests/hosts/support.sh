# Shared by the scripts of this folder, which run $MOESAIC, the executable.
# shellcheck shell=bash

data=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../data/qwen3_moe")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# shellcheck disable=SC2034  # for the scripts that source this
training=("${MOESAIC:?}" train --model.path "$data" --lora.init "$data/adapter_init" --data.train "$data/train.jsonl"
    --data.shuffle false --train.batch_size 4 --train.schedule constant --compute.precision fp32 --output.resume never)

fail() {
    echo "FAILED: $*"
    cat "$scratch/log"
    exit 1
}

# finish_within SECONDS COMMAND...: output goes to $scratch/log and the exit code to $code; too slow is a failure.
finish_within() {
    local seconds=$1
    shift
    code=0
    timeout -k 1 "$seconds" "$@" >"$scratch/log" 2>&1 || code=$?
    [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || grep -q 'exited on signal 9' "$scratch/log" ||
        fail "does not end within $seconds s"
}

# expect_lines COUNT PATTERN: as many lines of the log match.
expect_lines() {
    [ "$(grep -cE "$2" "$scratch/log")" -eq "$1" ] || fail "not $1 lines like '$2'"
}
