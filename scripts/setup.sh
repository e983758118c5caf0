#!/usr/bin/env bash
# Makes .venv and installs the locked packages: `scripts/setup.sh run` for users, `dev` for developers.
# Everything is checked against the hashes of the lock. Whatever index, proxy or CA this machine's pip is
# configured for is the one used; no address is written here.
set -euo pipefail
cd "$(dirname "$0")/.."

mode="${1:-run}"
venv="${VENV:-.venv}"
case "$mode" in
  run) lock=requirements.lock ;;
  dev) lock=requirements-dev.lock ;;
  *) echo "setup: mode must be 'run' or 'dev', got '$mode'" >&2; exit 2 ;;
esac

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local name
  for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null 2>&1 \
      && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  say "setup: wattmill needs Python 3.11 or newer; 'python3' here is $(python3 -V 2>&1 || true)."
  say "       Install one (Debian 12 and newer: apt-get install python3) or name yours: make up PYTHON=/path/to/python3.12"
  exit 1
}

# What a bare Debian lacks: its venv module comes without ensurepip, which is a package of its own (pythonX.Y-venv),
# and the embedded engine is linked against GNU OpenMP. Both are asked for in one go.
need_system_packages() {
  local python="$1" packages=()
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 \
    || packages+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
  "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' >/dev/null 2>&1 || packages+=(libgomp1)
  [ ${#packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null 2>&1; then
    say "setup: this machine lacks what Debian calls ${packages[*]}: Python's 'ensurepip' module, or GNU OpenMP."
    say "       Install your system's packages for them and run this again."
    exit 1
  fi
  scripts/apt-install.sh "${packages[@]}"
}

python="$(find_python)"
# What the folder must have been made from to be good as it is: locks, this script, the interpreter, the place.
made_from() {
  printf '%s %s %s' "$(cat requirements.lock "$1" scripts/setup.sh | sha256sum | cut -d' ' -f1)" \
    "$("$python" -VV | tr '\n' ' ')" "$PWD"
}
if [ -x "$venv/bin/wattmill" ] && [ "$(cat "$venv/.installed-$mode" 2>/dev/null || true)" = "$(made_from "$lock")" ]; then
  exit 0
fi

began=$(date +%s)
need_system_packages "$python"
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  say "Making $venv with $("$python" -V) ..."
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi

say "Installing $(grep -c '==' "$lock") pinned packages from $lock (hashes are checked) ..."
# --no-deps: the lock is complete, so there is nothing to resolve. --no-compile: modules are compiled when they
# are first imported, and most never are.
if ! "$venv/bin/python" -m pip install --disable-pip-version-check -qq --progress-bar off \
  --no-compile --no-deps --require-hashes -r "$lock"; then
  say "setup: pip could not install $lock. Is the package index of this machine reachable ('pip config list')?"
  exit 1
fi

# The project itself needs no build: a path file and a launcher do what an editable install would do, without
# a build backend and at once.
site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
printf '%s\n' "$PWD/src" > "$site/wattmill.pth"
case "$venv" in /*) bin="$venv/bin" ;; *) bin="$PWD/$venv/bin" ;; esac
cat > "$bin/wattmill" <<LAUNCHER
#!/bin/sh
exec "$bin/python" -m wattmill "\$@"
LAUNCHER
chmod +x "$venv/bin/wattmill"
made_from "$lock" > "$venv/.installed-$mode"
made_from requirements.lock > "$venv/.installed-run"  # whoever has the developers' packages has the users' too
say "Installed in $(( $(date +%s) - began )) s. The command is $venv/bin/wattmill"
