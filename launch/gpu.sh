#!/usr/bin/env bash
# bash launch/gpu.sh [OPTIONS] [--] train --config=FILE --workdir=DIR ...
#
# Runs `cbjax train ...` (or another command of cbjax) on all NVIDIA GPUs of this machine, from one process: sets cbjax up
# in .venv for CUDA, shows the GPUs, and becomes the command, so that signals reach it and its exit status is that of this
# script. CUDA_VISIBLE_DEVICES chooses among the GPUs.
#
#   --dry-run  print the commands, run none; needs no other argument
#   --help
set -euo pipefail
called_from=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in
    --dry-run)
        dry_run=true
        shift
        ;;
    --help)
        usage "${BASH_SOURCE[0]}"
        exit
        ;;
esac
if [ "${1:-}" = -- ]; then
    shift
fi
case ${1:-} in
    -*) fail "unknown option $1: --help lists them; cbjax's arguments begin with its command, such as train" ;;
    '') $dry_run || fail "needs cbjax's arguments, such as: train --config=imagenet:goyal --workdir=DIR" ;;
esac
if [ $# -eq 0 ]; then
    set -- train --config=imagenet:goyal --workdir=DIR
fi
need nvidia-smi "NVIDIA's driver; on a machine without GPUs use launch/local.sh"
run nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv ||
    fail "nvidia-smi finds no usable GPU; on a machine without GPUs use launch/local.sh"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
clone=$PWD
set_up "$clone" "$(extras cuda "$@")"
cd "$called_from"
if $dry_run; then
    run exec "$clone/.venv/bin/cbjax" "$@"
    exit
fi
exec "$clone/.venv/bin/cbjax" "$@"
