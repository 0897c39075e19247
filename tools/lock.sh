#!/usr/bin/env bash
# Renews the locks with uv (on PATH, or in the venv named by UV): hashes in, no index address.
#   requirements/run.txt  what `make up` installs      requirements/dev.txt  that and what tests need
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { "${UV:-uv}" pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --quiet "$@"; }
compile --extra embedded --group build -o requirements/run.txt
compile --extra embedded --group build --group dev -c requirements/run.txt -o requirements/dev.txt
