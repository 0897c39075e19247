#!/usr/bin/env bash
# Renews the locks with uv (on PATH, or in the venv named by UV): hashes in, no index address.
#   requirements/run.txt  what `make up` installs      requirements/dev.txt  that and what tests need
#   requirements/compile.txt  what compiles the hot path
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { "${UV:-uv}" pip compile --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --quiet "$@"; }
compile pyproject.toml --extra embedded --group build -o requirements/run.txt
compile pyproject.toml --extra embedded --group build --group dev -c requirements/run.txt -o requirements/dev.txt
compile --group compile -c requirements/dev.txt -o requirements/compile.txt
