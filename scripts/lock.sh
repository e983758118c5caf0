#!/usr/bin/env bash
# Resolves pyproject.toml into both locks, the clients of `make test-clients`, the cluster of `make test-ray` and the tables of `make test-operators` into theirs: versions and hashes for every platform, and no addresses.
# `scripts/lock.sh --upgrade` moves to the newest allowed versions; without it only what must change does.
set -euo pipefail
cd "$(dirname "$0")/.."

uv="${UV:-${VENV:-.venv}/bin/uv}"
[ -x "$uv" ] || { echo "lock: no $uv; run 'make dev' first, or name yours: make lock UV=/path/to/uv" >&2; exit 1; }
compile=("$uv" pip compile --quiet --universal --python-version 3.11
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@")

"${compile[@]}" pyproject.toml --output-file requirements.lock
"${compile[@]}" pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
"${compile[@]}" tests/clients/requirements.in --output-file tests/clients/requirements.lock
"${compile[@]}" --no-deps tests/operators/requirements.in --output-file tests/operators/requirements.lock
"${compile[@]}" tests/cluster/requirements.in --constraint requirements-dev.lock --output-file tests/cluster/requirements.lock

if grep -nE '://|^--' requirements.lock requirements-dev.lock tests/clients/requirements.lock tests/cluster/requirements.lock tests/operators/requirements.lock; then
  echo "lock: an address or an option got into a lock (lines above); a lock holds names, versions and hashes" >&2
  exit 1
fi
grep -c '==' requirements.lock requirements-dev.lock tests/clients/requirements.lock tests/cluster/requirements.lock tests/operators/requirements.lock
