#!/usr/bin/env bash
# Generates the protobuf and gRPC stubs of etcd's API beside their .proto files.
#   tools/etcd_protos.sh          write them
#   tools/etcd_protos.sh --check  fail if the committed ones differ
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
out=protos
if [ "${1:-}" = --check ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; fi
"$bin/python" -m grpc_tools.protoc -Iprotos --python_out="$out" --pyi_out="$out" \
  protos/bridge_wire/etcd/*.proto
# The other two define messages only.
"$bin/python" -m grpc_tools.protoc -Iprotos --grpc_python_out="$out" protos/bridge_wire/etcd/rpc.proto
if [ "$out" != protos ]; then
  for f in "$out"/bridge_wire/etcd/*; do
    cmp -s "$f" "protos/bridge_wire/etcd/$(basename "$f")" || {
      echo "generated code is out of date: $(basename "$f") (run 'make etcd-protos' and commit the result)" >&2; exit 1; }
  done
fi
