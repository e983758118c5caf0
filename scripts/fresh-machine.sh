#!/usr/bin/env bash
# Tries `make up` where nothing is installed: a bare Debian (python3, make, git and certificates, no more) in a
# folder, with a clean clone of this commit. `scripts/fresh-machine.sh [--args "--for 20s"] [--folder DIR] [--keep] [--again]`
# It uses this machine's own apt sources, apt and pip configuration and CA certificates. Needs root and debootstrap.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"

folder="" keep=no again=no args="--for 20s" suite=bookworm
while [ $# -gt 0 ]; do
  case "$1" in
    --args) args="$2"; shift 2 ;;
    --folder) folder="$2"; shift 2 ;;
    --suite) suite="$2"; shift 2 ;;
    --keep) keep=yes; shift ;;
    --again) again=yes; shift ;;
    *) echo "fresh-machine: knows --args, --folder, --suite, --keep and --again, not '$1'" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "fresh-machine: debootstrap and chroot need root: sudo $0" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "fresh-machine: apt-get install debootstrap" >&2; exit 1; }

folder="${folder:-$(mktemp -d "${TMPDIR:-/tmp}/fresh-machine.XXXXXX")}"
root="$folder/root"
step() { printf '%4d s  %s\n' "$(( $(date +%s) - began ))" "$*"; }
began=$(date +%s)

leave() {
  local point
  for point in /dev/shm /proc; do
    mountpoint -q "$root$point" && umount "$root$point" || true
  done
  # Never delete through a mount that would not let go.
  if [ "$keep" = no ] && ! grep -q " $root/" /proc/mounts; then rm -rf --one-file-system "$folder"; fi
}
trap leave EXIT

# The mirror that this machine's apt uses for the suite's main component.
mirror="$(apt-get indextargets --format '$(SITE)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' 2>/dev/null \
  | awk -F'|' -v s="$suite" '$2 == s && $3 == "main" { print $1; exit }')"
[ -n "$mirror" ] || { echo "fresh-machine: this machine's apt has no source for $suite/main" >&2; exit 1; }

if [ ! -x "$root/usr/bin/make" ]; then
  step "debootstrap: a minimal $suite with python3, make, git, ca-certificates"
  mkdir -p "$root"
  debootstrap --variant=minbase --include=python3,make,git,ca-certificates "$suite" "$root" "$mirror" \
    > "$folder/debootstrap.log" 2>&1 || { tail -n 20 "$folder/debootstrap.log" >&2; exit 1; }
fi

# The network of this machine, as its own programs are told to use it. Destinations are removed first: a link in
# the new root points into this machine's own tree.
put() { [ ! -f "$1" ] || { mkdir -p "$(dirname "$root$2")" && cp -L --remove-destination "$1" "$root$2"; }; }
put /etc/resolv.conf /etc/resolv.conf
put /etc/hosts /etc/hosts
put /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
put /etc/pip.conf /etc/pip.conf
put "$HOME/.config/pip/pip.conf" /root/.config/pip/pip.conf
for setting in /etc/apt/apt.conf.d/*; do
  if grep -qiE '^ *Acquire' "$setting"; then put "$setting" "$setting"; fi
done
mkdir -p "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev/shm"

rm -rf "$root/work"
git clone -q --no-hardlinks "$here" "$root/work"
step "clean clone of $(git -C "$root/work" rev-parse --short HEAD); what the machine has:"
chroot "$root" sh -c 'python3 -V; python3 -c "import ensurepip" 2>&1 | tail -n 1; nproc'

# Only what tells pip, apt and TLS how to reach the network is handed in.
handed=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM="${TERM:-dumb}")
while IFS='=' read -r name value; do
  case "$name" in
    PIP_*|http_proxy|https_proxy|no_proxy|HTTP_PROXY|HTTPS_PROXY|NO_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)
      handed+=("$name=$value") ;;
  esac
done < <(env)

make_up() {
  step "make up ARGS=\"$args\""
  local code=0
  timeout 600 chroot "$root" env -i "${handed[@]}" sh -c "cd /work && make up ARGS='$args'" 2>&1 \
    | while IFS= read -r line; do step "$line"; done || code=$?
  step "make up ended with exit code $code"
  return "$code"
}
make_up
if [ "$again" = yes ]; then make_up; fi
