#!/usr/bin/env bash
# Makes an environment of its own for packages that would not fit beside the developers', once, and prints its
# Python: `scripts/environment.sh .venv-clients tests/clients/requirements.lock`. Every package is checked against
# the hashes of the lock; a changed lock makes it anew, and so does an installation that was cut short. With
# `--no-deps` after the lock, what its packages declare beside is left out.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -eq 2 ] || [ "${3:-}" = --no-deps ] || { echo "environment: wants a folder and a lock, got '$*'" >&2; exit 2; }
own="$1" lock="$2" deps=("${@:3}")
venv="${VENV:-.venv}"
made="$own/made-of"
if [ "$(cat "$made" 2>/dev/null)" != "$(sha256sum <"$lock")" ]; then
  began=$SECONDS
  echo "$own: installing $(grep -c '==' "$lock") packages" >&2
  rm -rf "$own"
  uv="${UV:-$venv/bin/uv}"
  if ! { "$uv" venv --quiet --python "$venv/bin/python" "$own" \
    && "$uv" pip install --quiet --python "$own/bin/python" --require-hashes --only-binary :all: "${deps[@]}" -r "$lock"; }; then
    echo "$own: by pip, since uv could not" >&2 # it reads pip's own configuration, and is slower
    rm -rf "$own"
    "$venv/bin/python" -m venv "$own"
    "$own/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: "${deps[@]}" -r "$lock"
  fi
  sha256sum <"$lock" >"$made"
  echo "$own: installed in $((SECONDS - began)) s, $(du -sh "$own" | cut -f1)" >&2
fi
echo "$PWD/$own/bin/python"
