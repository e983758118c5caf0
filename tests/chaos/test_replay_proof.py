"""`make replay-proof` in small: a life with a reload, a kill and a restart, and each decision taken again."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from replay_proof import Proof, verdict


@pytest.mark.timeout(120)
def test_every_decision_of_two_workers_through_a_reload_a_kill_and_a_restart_is_identical(
    tmp_path: Path,
) -> None:
    proof = Proof(tmp_path, requests=1_600, seed=3, askers=6)
    try:
        told = asyncio.run(proof.run())
    finally:
        proof.close()
    assert verdict(proof, told) == []
