#!/usr/bin/env bash
# Builds the images bridge:VERSION (all commands) and bridge-registry:VERSION (without the engine) of the last commit, by
# buildah, podman or docker, whichever is here. The same commit, base and compiler give the same layers (docker: with
# BuildKit's `rewrite-timestamp`, which this does not ask for).
#   tools/images.sh [agent] [registry]
# BASE       image to build on; default python:3.11-slim-bookworm, of Docker's registry. `debian`: makes one of a
#            Debian mirror by mmdebstrap or debootstrap, where no registry can be reached (buildah, podman; root):
#            of SUITE, default bookworm, from DEBIAN_MIRROR, default what those have
# COMPILE    no: leave what runs for every request interpreted, and need no compiler
# CA_BUNDLE  a file of CA certificates that the build trusts for its downloads, behind a proxy that has its own
# OUT        a folder for the images as OCI archives, say OUT=dist
# FRESH      yes: use no layer of an earlier build
# ISOLATION  buildah's: chroot works inside containers and without cgroups
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'images: %s\n' "$*" >&2; exit 1; }
tool=
for one in ${BUILDER:-buildah podman docker}; do
  if command -v "$one" >/dev/null; then tool=$one; break; fi
done
[ -n "$tool" ] || die "needs buildah, podman or docker (Debian: apt-get install buildah)"
[ -z "$(git status --porcelain)" ] || die "commit first: what is built is the last commit"
targets=("$@")
[ $# -gt 0 ] || targets=(agent registry)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
epoch=$(git log -1 --format=%ct)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
git archive HEAD | tar -x -C "$work/src"

# A Debian with Python, and nothing else; dates are of the commit, so that the same mirror gives the same image.
debian_base() {
  local include=python3,ca-certificates suite=${SUITE:-bookworm} mirror=()
  [ -z "${DEBIAN_MIRROR:-}" ] || mirror=("$DEBIAN_MIRROR")
  if command -v mmdebstrap >/dev/null; then
    SOURCE_DATE_EPOCH=$epoch mmdebstrap --quiet --variant=minbase --include="$include" "$suite" "$work/base.tar" "${mirror[@]}"
  elif command -v debootstrap >/dev/null; then
    debootstrap --variant=minbase --include="$include" "$suite" "$work/base" "${mirror[@]}" >&2
    rm -rf "$work/base"/var/{log,cache,lib/apt/lists}/*
    tar -C "$work/base" --numeric-owner --sort=name --mtime="@$epoch" -cf "$work/base.tar" .
    rm -rf --one-file-system "$work/base"
  else
    die "BASE=debian needs mmdebstrap or debootstrap (Debian: apt-get install mmdebstrap)"
  fi
}

base=${BASE:-}
if [ "$base" = debian ]; then
  base=localhost/bridge-base:${SUITE:-bookworm}
  debian_base
  case $tool in
    docker) docker import "$work/base.tar" "$base" ;;
    podman) podman import --quiet "$work/base.tar" "$base" ;;
    buildah)
      made=$(buildah from scratch)
      buildah add --quiet "$made" "$work/base.tar" / >/dev/null
      buildah commit --quiet --timestamp "$epoch" --rm "$made" "$base" ;;
  esac
  rm "$work/base.tar"
fi

options=(--file "$work/src/deploy/images/Dockerfile" --build-arg "SOURCE_DATE_EPOCH=$epoch")
[ -z "$base" ] || options+=(--build-arg "BASE=$base")
[ -z "${COMPILE:-}" ] || options+=(--build-arg "COMPILE=$COMPILE")
[ "$tool" = docker ] || options+=(--layers --timestamp "$epoch" --ignorefile "$work/src/deploy/images/Dockerfile.dockerignore")
[ "$tool" = docker ] || [ "$base" = "${BASE:-}" ] || options+=(--pull-never)
if [ -n "${CA_BUNDLE:-}" ]; then
  [ "$tool" != docker ] || die "CA_BUNDLE is for buildah and podman; docker build has no volumes"
  options+=(--volume "$(realpath "$CA_BUNDLE"):/run/ca.pem:ro" --build-arg PIP_CERT=/run/ca.pem)
fi
[ -z "${ISOLATION:-}" ] || options+=(--isolation "$ISOLATION")
[ -z "${FRESH:-}" ] || options+=(--no-cache)
for target in "${targets[@]}"; do
  name=bridge:$version
  [ "$target" = agent ] || name=bridge-$target:$version
  "$tool" build "${options[@]}" --target "$target" --tag "$name" "$work/src"
  [ -z "${OUT:-}" ] || {
    mkdir -p "$OUT"
    archive=$OUT/${name%%:*}-image_${version}_$(uname -m).tar
    rm -f "$archive"
    case $tool in
      buildah) buildah push --quiet "$name" "oci-archive:$archive:$name" ;;
      podman) podman save --quiet --format oci-archive --output "$archive" "$name" ;;
      docker) docker save --output "$archive" "$name" ;;
    esac
    echo "$archive"
  }
done
