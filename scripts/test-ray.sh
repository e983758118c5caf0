#!/usr/bin/env bash
# Starts a Ray cluster of two nodes on this machine and spreads a planner's sweep over it. Ray gets an environment of
# its own (.venv-ray, some 300 MB), checked against the hashes of tests/cluster/requirements.lock. Arguments go to
# pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
own=".venv-ray"
lock="tests/cluster/requirements.lock"
made="$own/made-of"
if [ "$(cat "$made" 2>/dev/null)" != "$(sha256sum <"$lock")" ]; then
  began=$SECONDS
  echo "$own: installing $(grep -c '==' "$lock") packages" >&2
  rm -rf "$own"
  uv="${UV:-$venv/bin/uv}"
  if ! { "$uv" venv --quiet --python "$venv/bin/python" "$own" \
    && "$uv" pip install --quiet --python "$own/bin/python" --require-hashes --only-binary :all: -r "$lock"; }; then
    echo "$own: by pip, since uv could not" >&2 # it reads pip's own configuration, and is slower
    rm -rf "$own"
    "$venv/bin/python" -m venv "$own"
    "$own/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock"
  fi
  sha256sum <"$lock" >"$made"
  echo "$own: installed in $((SECONDS - began)) s, $(du -sh "$own" | cut -f1)" >&2
fi
WATTMILL_RAY_PYTHON="$PWD/$own/bin/python" exec "$venv/bin/python" -m pytest tests/cluster -m "slow or not slow" "$@"
