#!/usr/bin/env bash
# Installs the programs that tests and benchmarks want beside Python, where this user may:
# `scripts/system-packages.sh [browser] [nginx] [faketime] [node] [curl] [postgres]` (all without arguments).
# A missing one makes its tests skip and say so; with CI=true it is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(browser nginx faketime node curl postgres)

missing=()
for thing in "${wanted[@]}"; do
  case "$thing" in
    browser) command -v chromium >/dev/null 2>&1 || missing+=(chromium) ;;
    nginx) PATH="$PATH:/usr/sbin" command -v nginx >/dev/null 2>&1 || missing+=(nginx-light) ;;
    faketime) ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing+=(libfaketime) ;;
    node)
      command -v node >/dev/null 2>&1 || missing+=(nodejs)
      command -v npm >/dev/null 2>&1 || missing+=(npm)
      ;;
    curl)
      command -v curl >/dev/null 2>&1 || missing+=(curl)
      command -v openssl >/dev/null 2>&1 || missing+=(openssl)
      ;;
    postgres) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql) ;;
    *) echo "system-packages: knows browser, nginx, faketime, node, curl and postgres, not '$thing'" >&2; exit 2 ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

if command -v apt-get >/dev/null 2>&1 && scripts/apt-install.sh "${missing[@]}"; then
  exit 0
fi
echo "Not installed: ${missing[*]}. The tests that need them will skip and say so." >&2
[ "${CI:-}" != true ]
