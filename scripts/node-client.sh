#!/usr/bin/env bash
# Installs the Node client that the tutorial uses, checked against the hashes of its lock. Without npm, or without its
# registry, the tutorial's test skips and says so; with CI=true that is an error.
set -euo pipefail
cd "$(dirname "$0")/../tests/docs/node"

if [ node_modules/.package-lock.json -nt package-lock.json ]; then exit 0; fi
if command -v npm >/dev/null 2>&1 && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2; then
  touch node_modules/.package-lock.json
  exit 0
fi
echo "Not installed: the OpenAI client for Node (npm ci in tests/docs/node). The tutorial's test will skip." >&2
[ "${CI:-}" != true ]
