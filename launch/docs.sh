#!/usr/bin/env bash
# bash launch/docs.sh [SPHINX ARGS ...]   sets cbjax up in .venv for its site, and builds it: build/site/index.html
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_cbjax "[docs]"
# Warnings are errors, a link to a page or heading that is not there too. Pages that did not change come from the cache.
.venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet -d build/site_cache "$@" docs build/site
echo "site: $PWD/build/site/index.html"
