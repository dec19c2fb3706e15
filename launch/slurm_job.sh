#!/usr/bin/env bash
# The batch script that slurm.sh submits: slurm_job.sh CLONE [--dry-run] ARGS ... runs `cbjax ARGS ...` on every GPU of the
# job. At SIGUSR1, which Slurm sends it before the time limit, the processes get SIGTERM and save, and the job is queued again.
set -euo pipefail
clone=$1
shift
# Slurm runs a copy of this script from a folder of its own.
# shellcheck source=common.sh
source "$clone/launch/common.sh"
if [ "${1:-}" = --dry-run ]; then
    dry_run=true
    shift
fi
# Each process must see all GPUs of its node: JAX takes the one whose number is that of the process on the node.
# Since Slurm 22.05 srun no longer inherits the number of cores.
step=(srun --kill-on-bad-exit=1 --gpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$clone/.venv/bin/cbjax" "$@")
# To the processes of the job, not to this script.
stop=(scancel --signal=TERM "$SLURM_JOB_ID")
again=(scontrol requeue "$SLURM_JOB_ID")
if $dry_run; then
    run "${step[@]}"
    echo "# before the time limit:"
    run "${stop[@]}"
    run "${again[@]}"
    exit
fi

at_limit=false status=0
# shellcheck disable=SC2329 # the trap calls it
near_limit() {
    signals=$((signals + 1)) at_limit=true
    say "the time limit is near: saving"
    "${stop[@]}" || true
}
trap near_limit USR1
# Slurm tells the processes as well; it queues a preempted job again by itself, and a cancelled one never.
trap 'signals=$((signals + 1))' TERM
say "start ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID"
"${step[@]}" &
wait_through_signals $! || status=$?
# 1 and 2 are mistakes and divergence, which another stay on the nodes would only repeat.
if $at_limit && [ "$status" -gt 2 ]; then
    "${again[@]}"
fi
exit "$status"
