# Sourced by the scripts that install cbjax: makes .venv in the clone and installs it there, once for each state of its
# requirements.
# shellcheck shell=bash
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "cbjax needs Python 3.11 or newer with its venv module (Debian and Ubuntu: apt install python3-venv);" \
        "found none. Set PYTHON=/path/to/python and run this again." >&2
    return 1
}

version_of() { # a Python; prints nothing if it cannot be run
    "$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null || true
}

is_usable() {
    # Scripts such as pip name the folder that .venv was made in. They fail once it was moved, while Python still runs.
    .venv/bin/pip --version >/dev/null 2>&1 &&
        .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

install_cbjax() { # extras, such as [test]
    local requirements wanted
    if [ -n "${PYTHON:-}" ] && [ -d .venv ]; then
        wanted=$(find_python) # the next one, if that cannot be used
        if [ "$(version_of "$wanted")" != "$(version_of .venv/bin/python)" ]; then
            echo "removing .venv, which is not of $("$wanted" --version)"
            rm -rf .venv
        fi
    fi
    # The clone's folder is part of it: a virtual environment does not survive being moved.
    requirements="$PWD $1 $(cat pyproject.toml constraints.txt | cksum)"
    if [ "$(cat ".venv/installed$1" 2>/dev/null)" = "$requirements" ]; then
        return
    fi
    if ! is_usable; then
        local python
        python=$(find_python)
        echo "making .venv with $("$python" --version)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    echo "installing cbjax$1 in .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$1"
    echo "$requirements" >".venv/installed$1"
}
