# Sourced by the launch scripts: messages, commands that are printed or run, and cbjax's arguments.
# shellcheck shell=bash
dry_run=false
signals=0

usage() { # the script: prints the comment at its head
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

fail() { # message: the caller can mend it
    echo "$(basename "$0"): $*" >&2
    exit 2
}

say() {
    echo "$(basename "$0"): $*" >&2
}

need() { # command, what it belongs to
    $dry_run || command -v "$1" >/dev/null || fail "needs $1, which is not on PATH: $2"
}

whole_number() { # option, its value
    case $2 in
        '' | *[!0-9]*) fail "$1 must be a whole number, 0 or more; got '$2'" ;;
    esac
}

quoted() { # words: one line that a shell reads back as the same words
    local word line=""
    for word; do
        case $word in
            '' | *[!A-Za-z0-9_@%+=:,./-]*) word=$(printf '%s' "$word" | sed "s/'/'\\\\''/g; 1s/^/'/; \$s/\$/'/") ;;
        esac
        line="$line ${word:-''}"
    done
    printf '%s\n' "${line# }"
}

run() { # a command: runs it, or prints it under --dry-run
    if $dry_run; then
        quoted "$@"
    else
        "$@"
    fi
}

set_arguments() { # cbjax's arguments: leaves them in `arguments`, with --distributed=auto where several processes train
    local word
    if [ $# -eq 0 ]; then
        $dry_run || fail "needs cbjax's arguments behind --, such as: -- train --config=imagenet:goyal --workdir=DIR"
        set -- train --config=imagenet:goyal --workdir="${example_workdir:-DIR}"
    fi
    arguments=("$@")
    case $1 in
        train | sweep) ;;
        *) return 0 ;;
    esac
    for word; do
        case $word in
            --distributed | --distributed=* | --coordinator | --coordinator=*) return 0 ;;
        esac
    done
    arguments+=(--distributed=auto)
}

extras() { # extra, cbjax's arguments: all extras to install, [gcs] among them where a path lies in a bucket
    case "$*" in
        *gs://*) echo "[train,$1,gcs]" ;;
        *) echo "[train,$1]" ;;
    esac
}

set_up() { # the clone, extras: what setup.sh does, which the script has sourced
    if $dry_run; then
        echo "# once for each state of pyproject.toml and constraints.txt:"
        quoted python3 -m venv "$1/.venv"
        quoted "$1/.venv/bin/python" -m pip install --constraint "$1/constraints.txt" --editable "$1$2"
    else
        install_cbjax "$2"
    fi
}

wait_through_signals() { # process: returns its exit status; every trap must count in `signals`
    local seen status
    while :; do
        seen=$signals status=0
        wait "$1" || status=$?
        [ "$signals" -gt "$seen" ] || return "$status"
    done
}
