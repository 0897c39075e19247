#!/usr/bin/env bash
# Builds the two programs of Kubernetes' control plane that tests/kube_bed.py runs: needs Go and its module
# proxy, no root, some 4 GiB of disk, and minutes to an hour, by the machine. Then:
#   BRIDGE_TEST_KUBE=FOLDER BRIDGE_TEST_HELM=…/helm pytest tests/cluster/test_kubernetes.py
set -euo pipefail

version=v1.36.3
folder=${1:?usage: tools/build_kubernetes.sh FOLDER}
mkdir -p "$folder"
folder=$(realpath "$folder")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Its staging modules have versions of their own, which its go.mod leaves to whoever builds it.
module=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^.*"GoMod": "\(.*\)",$/\1/p')
{
  printf 'module control-plane\ngo 1.26.0\nrequire k8s.io/kubernetes %s\n' "$version"
  grep -E '^\s+k8s.io/[a-z-]+ v0\.0\.0( |$)' "$module" | awk '{print $1}' | sort -u |
    sed "s|.*|replace & => & v0.${version#v1.}|"
} >go.mod
cat >programs.go <<'GO'
package main

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {}
GO
go mod tidy
# Clients look at the version that it says it has.
minor=${version#v1.}
minor=${minor%%.*}
flags="-s -w -X k8s.io/component-base/version.gitVersion=$version"
flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"
for program in kube-apiserver kube-controller-manager; do
  go build -ldflags "$flags" -o "$folder/$program" "k8s.io/kubernetes/cmd/$program"
done
ls -l "$folder"
