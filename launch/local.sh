#!/usr/bin/env bash
# bash launch/local.sh            sets cbjax up in .venv, trains the small example, prints where its report is
# bash launch/local.sh ARGS ...   sets it up and runs `cbjax ARGS ...`
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_cbjax "[train]"
cbjax=$PWD/.venv/bin/cbjax
# glibc gives large blocks back to the system and asks for them again at every step; keeping them is faster on CPU.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-100000000000}
export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1}
if [ $# -gt 0 ]; then
    cd "$called_from"
    exec "$cbjax" "$@"
fi
exec "$cbjax" sweep --config=configs/sweeps/digits_lt.py --workdir=runs/digits_lt
