#!/usr/bin/env bash
# Builds the newest etcd from its Go module, outside this repository, and prints where it is. The attack
# suite (tests/attacks) runs against it where it has been built; it needs Go and some minutes, once.
set -euo pipefail
folder=${XDG_CACHE_HOME:-$HOME/.cache}/deepseek-ollama-bridge/etcd-newest
mkdir -p "$folder"
cd "$folder"
cat > main.go <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
[ -f go.mod ] || go mod init newest-etcd
go get go.etcd.io/etcd/server/v3@latest
go mod tidy
go build -o etcd .
./etcd --version | head -1 >&2
echo "$folder/etcd"
