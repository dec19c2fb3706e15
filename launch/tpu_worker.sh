#!/usr/bin/env bash
# What tpu_vm.sh runs on each worker of a slice, in its copy of the clone:
#   bash cbjax/launch/tpu_worker.sh install    brings Python 3.11 or newer where the image has less, and installs cbjax
#   bash cbjax/launch/tpu_worker.sh run ARGS   runs `cbjax ARGS`, in the place of an earlier one
#   bash cbjax/launch/tpu_worker.sh stop       ends cbjax with SIGTERM, so that it saves
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
process_file=$HOME/cbjax.pid
grace=${CBJAX_GRACE_SECONDS:-30}

bring_python() {
    if ! find_python >/dev/null 2>&1; then
        # uv needs neither root nor apt, whose lock an image that has just started holds for its own updates.
        python3 -m pip install --quiet --user uv || python3 -m pip install --quiet --user --break-system-packages uv
        python3 -m uv python install --managed-python 3.12
        PYTHON=$(python3 -m uv python find --managed-python 3.12)
        export PYTHON
    fi
}

stop() {
    local process second
    process=$(cat "$process_file" 2>/dev/null) || return 0
    # After a restart of the machine the number may be another program's.
    if ps -p "$process" -o args= | grep -q cbjax; then
        kill -TERM "$process"
        for ((second = 0; second < grace; second++)); do
            kill -0 "$process" 2>/dev/null || break
            sleep 1
        done
        kill -KILL "$process" 2>/dev/null || true
    fi
    rm -f "$process_file"
}

run_cbjax() {
    local process status=0
    # gcloud gives a command again when the connection breaks, and the devices serve one process at a time.
    stop
    .venv/bin/cbjax "$@" &
    process=$!
    echo "$process" >"$process_file"
    trap 'signals=$((signals + 1)); kill -TERM "$process"' HUP INT TERM
    wait_through_signals "$process" || status=$?
    case $status in
        0) ;;
        134) say "$HOSTNAME: cbjax aborted, as it does when it loses another process" ;;
        *) say "$HOSTNAME: cbjax ended with status $status" ;;
    esac
    # gcloud's own failures have the statuses 1 and 2, too. Not exec: to ssh, death by a signal is a broken connection.
    case $status in
        1 | 2) status=$((status + 100)) ;;
    esac
    return "$status"
}

case ${1:-} in
    install)
        bring_python
        install_cbjax "[train,tpu,gcs]"
        ;;
    run) run_cbjax "${@:2}" ;;
    stop) stop ;;
    *) fail "needs install, run or stop" ;;
esac
