"""An embedded engine as it is declared, and the command that starts it. A supervisor runs the command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

KEY_VARIABLE = "WATTMILL_ENGINE_KEY"

EXIT_NO_KEY = 64
EXIT_SPINNING = 65
EXIT_NO_WEIGHTS = 66
EXIT_CANNOT_LOAD = 67
EXIT_NO_ENGINE = 68
EXIT_PORT_TAKEN = 69

EXIT_CODES: dict[int, tuple[bool, str]] = {
    0: (True, "asked to stop"),
    EXIT_NO_KEY: (False, f"started without {KEY_VARIABLE}"),
    EXIT_SPINNING: (False, "started without OMP_WAIT_POLICY=passive"),
    EXIT_NO_WEIGHTS: (False, "the weights file is missing: `wattmill models pull`"),
    EXIT_CANNOT_LOAD: (False, "the engine cannot load the weights; see its log"),
    EXIT_NO_ENGINE: (False, "xllamacpp or a library that it needs is not installed; its log says which"),
    EXIT_PORT_TAKEN: (True, "the port was taken by another process: start it on a new one"),
    70: (False, "its parent is gone"),
}
"""exit code -> (whether to start it again, what it means). All else is a crash: start it again."""

BATCH_TOK = 128
"""Prompt tokens that are computed at once; a client that leaves in prefill costs at most two such batches."""

READY_PATH = "/health"
"""Answers 200 without a key when the weights are loaded, 503 before."""


class EmbeddedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One embedded engine of a pool."""

    pool: str
    weights: str  # a name of the lock, or the path of a GGUF file
    alias: str  # the model's name in requests to it
    slots: int = 4
    ctx: int = 2048  # tokens of context per slot
    threads: int = 1
    batch: int = BATCH_TOK
    embeddings: bool = False  # then a batch is as long as the context: leaving in prefill costs more


def command(spec: EmbeddedSpec, port: int, *, model: Path, key: str) -> tuple[list[str], dict[str, str]]:
    """Return (arguments, environment) of the engine's process on 127.0.0.1:`port`.

    `model` is what `weights.weights_path(spec.weights)` gave. The environment holds the key: do not log it.
    Threads wait passively and are as many as declared, or they would slow everything else on the machine.
    """
    arguments = [sys.executable, "-m", "wattmill.models.engines.embedded_server"]
    arguments += ["--model", str(model), "--alias", spec.alias, "--port", str(port)]
    arguments += ["--slots", str(spec.slots), "--ctx", str(spec.ctx), "--threads", str(spec.threads)]
    arguments += ["--batch", str(spec.batch)]
    if spec.embeddings:
        arguments.append("--embeddings")
    environment = {**os.environ, KEY_VARIABLE: key, "OMP_WAIT_POLICY": "passive"}
    environment["OMP_NUM_THREADS"] = str(spec.threads)
    return arguments, environment
