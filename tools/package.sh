#!/usr/bin/env bash
# Builds wheel and sdist into dist/, the same bytes for the same commit, with their checksums and the
# locked packages that they run with. What is not committed is not in them.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -z "$(git status --porcelain)" ] || { echo "package: commit first: what is built is the last commit" >&2; exit 1; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
git archive HEAD | tar -x -C "$folder"
# Pure: what a compiler makes differs from machine to machine.
BRIDGE_COMPILE=no SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$venv/bin/python" - "$folder" "$PWD/dist" <<'PYTHON'
import sys

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

root, out = sys.argv[1:]
for builder in (WheelBuilder, SdistBuilder):
    for path in builder(root).build(directory=out):
        print(path)
PYTHON
cp requirements/run.txt dist/constraints.txt # every package beside it, with its hashes
(cd dist && sha256sum ./*.whl ./*.tar.gz constraints.txt >SHA256SUMS && cat SHA256SUMS)
