#!/usr/bin/env bash
# bash launch/test.sh [--slow] [PYTEST ARGS ...]   sets cbjax up in .venv for its tests, then checks and tests everything
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_cbjax "[test]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Three processes for two cores: some tests wait.
exec .venv/bin/python -m pytest -n "${PYTEST_WORKERS:-3}" --dist=loadfile --no-loadscope-reorder "$@"
