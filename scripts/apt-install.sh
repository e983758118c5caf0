#!/usr/bin/env bash
# Installs Debian packages when this user may, and otherwise names the exact command: `scripts/apt-install.sh nginx`.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  say "This needs the system package(s) $*, and only root may install them. Please run:"
  say "    sudo apt-get update && sudo apt-get install --no-install-recommends -y $*"
  exit 1
fi

say "Installing system package(s): $* ..."
# A test machine wants the nginx program, not an nginx service on port 80.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod +x "$policy"
fi
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
  apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0)
log="$(mktemp)"
# The package lists may be fresh already; fetching them again costs seconds, so try without first.
if ! "${install[@]}" "$@" >"$log" 2>&1; then
  if ! { "${as_root[@]}" apt-get update -qq && "${install[@]}" "$@"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    say "apt-get could not install $*; its words are above."
    exit 1
  fi
fi
rm -f "$log"
