#!/usr/bin/env bash
# Generates the protobuf, gRPC and Connect stubs beside the .proto files.
#   tools/protos.sh          write them
#   tools/protos.sh --check  fail if the committed ones differ
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
out=protos
if [ "${1:-}" = --check ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; fi
"$bin/python" -m grpc_tools.protoc -Iprotos --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
  protos/bridge_wire/v1/*.proto
"$bin/python" -m grpc_tools.protoc -Iprotos --plugin=protoc-gen-connectrpc="$bin/protoc-gen-connectrpc" \
  --connectrpc_out="$out" --connectrpc_opt=protobuf=google protos/bridge_wire/v1/inference.proto
if [ "$out" != protos ]; then
  for f in "$out"/bridge_wire/v1/*; do
    cmp -s "$f" "protos/bridge_wire/v1/$(basename "$f")" || {
      echo "generated code is out of date: $(basename "$f") (run 'make protos' and commit the result)" >&2; exit 1; }
  done
fi
