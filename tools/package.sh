#!/usr/bin/env bash
# Builds wheels and sdist into dist/, with their checksums and the locked packages that they run with, out of
# the last commit: what is not committed is not in them. One wheel is pure and fits every machine; the other is
# compiled, where a C compiler and Python's headers are, and fits machines like this one: pip takes it there.
# The same commit gives the same bytes, of the compiled one by the same compiler. BRIDGE_COMPILE=no: only the
# pure one; yes: fail rather than leave the compiled one out.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv} compile=${BRIDGE_COMPILE:-auto}
[ -z "$(git status --porcelain)" ] || { echo "package: commit first: what is built is the last commit" >&2; exit 1; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
git archive HEAD | tar -x -C "$folder"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$venv/bin/python" - "$folder" "$PWD/dist" "$compile" <<'PYTHON'
import os
import sys

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

root, out, compile_ = sys.argv[1:]
for builder, wanted in dict.fromkeys([(SdistBuilder, "no"), (WheelBuilder, "no"), (WheelBuilder, compile_)]):
    os.environ["BRIDGE_COMPILE"] = wanted
    for path in builder(root).build(directory=out):
        print(path)
PYTHON
cp requirements/run.txt dist/constraints.txt # every package beside it, with its hashes
(cd dist && sha256sum ./*.whl ./*.tar.gz constraints.txt >SHA256SUMS && cat SHA256SUMS)
