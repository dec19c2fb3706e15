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

install_cbjax() { # extras, such as [test]
    local requirements
    # The clone's folder is part of it: a virtual environment does not survive being moved.
    requirements="$PWD $1 $(cat pyproject.toml constraints.txt | cksum)"
    if [ "$(cat ".venv/installed$1" 2>/dev/null)" = "$requirements" ]; then
        return
    fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
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
