"""One embedded engine as a process of its own: llama.cpp's server out of the xllamacpp wheel.

`python -m wattmill.models.engines.embedded_server --model PATH --alias NAME --port P`, with the API key in
`WATTMILL_ENGINE_KEY`. `embedded.command` writes that line. Exit codes stand in `embedded.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from wattmill.models.engines import lifeline
from wattmill.models.engines.embedded import (
    EXIT_CANNOT_LOAD,
    EXIT_NO_ENGINE,
    EXIT_NO_KEY,
    EXIT_NO_WEIGHTS,
    EXIT_PORT_TAKEN,
    EXIT_SPINNING,
    KEY_VARIABLE,
)


def main() -> None:
    """Serve until a signal, or until whoever started this is gone."""
    args = _arguments()
    lifeline.hold()
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        _end(EXIT_NO_KEY, f"no API key: set {KEY_VARIABLE} before starting the engine")
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        _end(
            EXIT_SPINNING,
            "set OMP_WAIT_POLICY=passive before starting: spinning threads slow all others 17-fold",
        )
    if not Path(args.model).is_file():
        _end(EXIT_NO_WEIGHTS, f"no weights file {args.model}; fetch weights with `wattmill models pull`")
    if not _is_free(args.port):
        # The engine shares its port (SO_REUSEPORT): without this look two engines would serve by turns.
        _end(EXIT_PORT_TAKEN, f"port {args.port} on 127.0.0.1 is taken; give another one")
    try:
        import xllamacpp
    except ImportError as e:
        _end(EXIT_NO_ENGINE, f"the embedded engine cannot be loaded ({e}); {_way_out(e)}")
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, args, key))
    except (RuntimeError, ValueError, OSError) as e:
        _end(EXIT_CANNOT_LOAD, f"the engine cannot load {args.model}: {e}")
    print(f"serving {args.alias} on {server.listening_address}", flush=True)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()
    os._exit(0)  # the engine has no way to stop but this


def _parameters(xllamacpp: object, args: argparse.Namespace, key: str) -> object:
    params = xllamacpp.CommonParams()  # type: ignore[attr-defined]
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.api_keys = [key]
    params.n_parallel = args.slots
    params.n_ctx = args.ctx * args.slots
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    # A client that leaves during prefill is noticed between two batches.
    params.n_batch = params.n_ubatch = args.ctx if args.embeddings else args.batch
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    params.cache_ram_mib = args.cache_mib
    params.ui = False
    params.verbosity = 2 if args.verbose else 1
    if args.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN  # type: ignore[attr-defined]
    return params


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="embedded_server", description="One embedded engine.")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--alias", required=True, help="the model's name in requests and answers")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--slots", type=int, default=4, help="requests worked on at once")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens of context per slot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128, help="prompt tokens computed at once")
    parser.add_argument("--cache-mib", type=int, default=0, help="memory for prompts of finished requests")
    parser.add_argument(
        "--embeddings", action="store_true", help="serve embeddings too; a batch is a context"
    )
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def _way_out(error: ImportError) -> str:
    if "libgomp" in str(error):
        return "install OpenMP's runtime, on Debian `apt-get install libgomp1`"
    return "`pip install xllamacpp`"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _end(code: int, message: str) -> None:
    print(f"embedded engine: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
