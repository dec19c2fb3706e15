#!/usr/bin/env bash
# bash launch/tpu_vm.sh OPTIONS -- train --config=FILE --workdir=gs://BUCKET/DIR ...
#
# Runs cbjax on all workers of a queued Cloud TPU slice: makes the slice or takes the one of that name, copies this clone
# there, installs it, runs the command and waits. When the slice is taken away it is deleted and made again, and the same
# command goes on from its work directory, which therefore lies in a bucket.
#
#   --zone=ZONE                such as us-west4-a
#   --accelerator-type=TYPE    such as v5litepod-8, v5p-32, v6e-256
#   --name=NAME                of the slice (default: cbjax)
#   --project=PROJECT          (default: that of gcloud)
#   --runtime-version=VERSION  (default: the one for the type)
#   --spot                     cheaper, and taken away at any moment
#   --create-flag=FLAG         one more flag of `gcloud compute tpus queued-resources create`; may be repeated
#   --retries=N                times to start again after a preemption or a lost connection (default: 20)
#   --delete                   delete the slice when the command has succeeded
#   --dry-run                  print the commands, run none; needs no other option
#   --help
#
# CBJAX_POLL_SECONDS (30): how often to ask for the state of the slice.
set -euo pipefail
root=$(CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
# shellcheck source=common.sh
source "$root/launch/common.sh"
poll=${CBJAX_POLL_SECONDS:-30}
name=cbjax zone="" project="" type="" version="" retries=20 spot=false delete=false
create_flags=()
while [ $# -gt 0 ]; do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --accelerator-type=*) type=${1#*=} ;;
        --runtime-version=*) version=${1#*=} ;;
        --spot) spot=true ;;
        --create-flag=*) create_flags+=("${1#*=}") ;;
        --retries=*) retries=${1#*=} ;;
        --delete) delete=true ;;
        --dry-run) dry_run=true ;;
        --help)
            usage "${BASH_SOURCE[0]}"
            exit
            ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option $1: --help lists them, with an equals sign; cbjax's arguments go behind --" ;;
    esac
    shift
done
if $dry_run; then
    zone=${zone:-ZONE} type=${type:-TYPE}
fi
# shellcheck disable=SC2034 # read by set_arguments
example_workdir=gs://BUCKET/DIR
set_arguments "$@"
[ -n "$zone" ] || fail "needs --zone=ZONE"
[ -n "$type" ] || fail "needs --accelerator-type=TYPE"
case $name in
    '' | *[!a-z0-9-]*) fail "--name may have lower case letters, digits and hyphens; got '$name'" ;;
esac
whole_number --retries "$retries"
case "${arguments[0]} ${arguments[*]}" in
    train*--workdir[=\ ]gs://*) ;;
    train*) fail "needs --workdir=gs://BUCKET/DIR: the disks of a slice vanish with it" ;;
    sweep*) fail "trains single runs: a sweep wants a folder, and the disks of a slice vanish with it" ;;
esac
need gcloud "the Google Cloud CLI, logged in"
case $type in
    v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
    v5p-*) version=${version:-v2-alpha-tpuv5} ;;
    v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
    *) version=${version:-tpu-ubuntu2204-base} ;;
esac

where=(--zone="$zone" ${project:+--project="$project"})

tpus() { # group, verb, its arguments
    run gcloud compute tpus "$@" "${where[@]}"
}

on_workers() { # a command line for the shell of each worker
    # Without these messages a connection to a machine that is gone stays open for hours.
    tpus tpu-vm ssh "$name" --worker=all --ssh-flag=-oServerAliveInterval=30 --command="$1"
}

# Prints the state of the slice: nothing if there is none; of an active one, that of its machines, unless they are ready.
slice_state() {
    local state machines
    state=$(tpus queued-resources list --filter="name~/$name\$" --format="value(state.state)") || return
    if [ "$state" = ACTIVE ]; then
        machines=$(tpus tpu-vm list --filter="name~/$name\$" --format="value(state)") || return
        [ "$machines" = READY ] || state=${machines:-GONE}
    fi
    echo "$state"
}

create_slice() {
    local flags=(--node-id="$name" --accelerator-type="$type" --runtime-version="$version")
    if $spot; then
        flags+=(--spot)
    fi
    tpus queued-resources create "$name" "${flags[@]}" ${create_flags[@]+"${create_flags[@]}"}
}

delete_slice() {
    tpus queued-resources delete "$name" --force --quiet
}

# At the first attempt a failure of gcloud is to be mended by hand (no login, no quota, a wrong zone); later it may pass.
gcloud_failed() {
    [ "$attempt" -gt 0 ] || exit 1
    return 1
}

# Waits for the slice, made again if it is gone.
bring_slice() {
    local state told="" made=false
    while :; do
        state=$(slice_state) || gcloud_failed || return
        [ "${state:-none}" = "$told" ] || say "slice $name: ${state:-none}"
        told=${state:-none} slice_left=$state
        case $state in
            ACTIVE) return ;;
            "")
                create_slice || gcloud_failed || return
                made=true slice_left=yes
                ;;
            FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED | GONE)
                [ "$state" != FAILED ] || tpus queued-resources describe "$name" --format="yaml(state)" >&2 || true
                delete_slice || gcloud_failed || return
                slice_left=""
                # One attempt makes one slice: a request that fails each time must come to an end.
                if $made; then
                    return 1
                fi
                continue
                ;;
        esac
        pause
    done
}

install_on_workers() {
    tpus tpu-vm scp "$archive" "$name:cbjax.tar.gz" --worker=all &&
        on_workers "if [ -f cbjax/launch/tpu_worker.sh ]; then bash cbjax/launch/tpu_worker.sh stop; fi
mkdir -p cbjax && find cbjax -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + &&
tar -xzf cbjax.tar.gz -C cbjax && bash cbjax/launch/tpu_worker.sh install"
}

run_on_workers() {
    on_workers "bash cbjax/launch/tpu_worker.sh run $(quoted "${arguments[@]}")"
}

# Runs the command and watches the slice meanwhile: the connection to machines that were taken away may not notice.
train() {
    local state
    # The process in the background is gcloud itself, not a shell that waits for it, so that the signal below ends it.
    # shellcheck disable=SC2329
    (run() { exec "$@"; } && run_on_workers) </dev/null 2> >(tee >(grep -o "$lost_task" >"$scratch/lost") >&2) &
    connection=$!
    while pause && kill -0 "$connection" 2>/dev/null; do
        if state=$(slice_state) && [ "$state" != ACTIVE ]; then
            say "slice $name: ${state:-none} while cbjax ran"
            kill "$connection" 2>/dev/null || true
            break
        fi
    done
    wait "$connection"
}

# Says which processes JAX missed when it aborted the others.
lost_processes() {
    local processes
    sleep 1 # for what is still on its way to the file
    processes=$(tr -cd '0-9\n' <"$scratch/lost" | sort -nu | tr '\n' ' ')
    [ -z "$processes" ] || echo " (lost: process ${processes% })"
}

pause() {
    # In the background, so that a signal need not wait for it.
    sleep "$poll" &
    wait $!
}

interrupted() {
    trap - INT TERM
    if [ -n "$connection" ]; then
        say "stopping the workers, so that they save"
        on_workers "bash cbjax/launch/tpu_worker.sh stop" || true
    fi
    exit 130
}

finish() {
    rm -rf "$scratch"
    [ -z "$slice_left" ] ||
        say "the slice still exists and is charged: bash launch/tpu_vm.sh with the same options uses it again," \
            "and this deletes it: $(quoted gcloud compute tpus queued-resources delete "$name" --force "${where[@]}")"
}

if $dry_run; then
    archive=cbjax.tar.gz
    echo "# the state of the slice, every $poll seconds; it is waited for until it is ACTIVE:"
    slice_state
    echo "# where there is none:"
    create_slice
    echo "# to all its workers, with this clone packed in $archive:"
    install_on_workers
    run_on_workers
    echo "# where it was taken away meanwhile, before all of this again, $retries times at most, and at the end with --delete:"
    delete_slice
    exit
fi

scratch=$(mktemp -d)
lost_task="Task [0-9]* heartbeat timeout" # in the message of JAX's coordination service
slice_left="" connection=""
trap finish EXIT
# Once, so that a resumed run is the same program, whatever happens to the clone meanwhile.
archive=$scratch/cbjax.tar.gz
excluded=()
for folder in .git .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis; do
    excluded+=(--exclude="./$folder")
done
COPYFILE_DISABLE=1 tar -C "$root" "${excluded[@]}" --exclude=__pycache__ -czf "$archive" .
say "copies $root, $(($(wc -c <"$archive") / 1000000)) MB packed"
trap interrupted INT TERM
for ((attempt = 0; ; attempt++)); do
    if bring_slice && install_on_workers && train; then
        break
    else
        status=$?
    fi
    case $status in
        101 | 102) # the worker's names for cbjax's 1 and 2, which the next attempt would repeat, if the machines are there
            if [ "$(slice_state)" = ACTIVE ]; then
                say "cbjax ended with status $((status - 100))"
                exit $((status - 100))
            fi
            ;;
    esac
    lost=""
    if [ "$status" -eq 134 ]; then
        lost=$(lost_processes)
    fi
    if [ "$attempt" -ge "$retries" ]; then
        say "status $status$lost at the last of $((attempt + 1)) attempts"
        exit 1
    fi
    say "status $status$lost: attempt $((attempt + 2)) of $((retries + 1)) goes on from the last checkpoint"
    pause
done
say "done"
if $delete; then
    delete_slice
    slice_left=""
fi
