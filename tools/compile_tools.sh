#!/usr/bin/env bash
# Puts what compiles the hot path into build/compile-tools and prints that folder: for PYTHONPATH, so that no
# environment which runs the Bridge has to hold it. A C compiler and Python's headers are the machine's.
#   tools/compile_tools.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 folder=$PWD/build/compile-tools
want=$({ cat requirements/compile.txt; "$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'; } | sha256sum)
if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$want" ]; then
  rm -rf "$folder"
  "$python" -m pip --disable-pip-version-check --quiet install --require-hashes --target "$folder" -r requirements/compile.txt >&2
  printf '%s' "$want" >"$folder/.installed"
fi
printf '%s\n' "$folder"
