"""A replayed meter over a known history of batches: attribution by hand, and weights that are learnt."""

from __future__ import annotations

import random
from pathlib import Path

from wattmill.ledger.attribution import Weights, Work, split
from wattmill.ledger.energy_lessons import learn, weights_in_force
from wattmill.ledger.stores.sqlite import LedgerDb
from wattmill.power.live.bank import open_bank
from wattmill.power.live.meters.registry import open_meter
from wattmill.power.spec import MeterConfig
from wattmill.vocab.fact import MeterWindow

S = 1_000_000
PREFILL_UJ, DECODE_UJ = 3_000, 40_000


def test_a_replayed_trace_over_a_known_history_is_split_as_by_hand(tmp_path: Path) -> None:
    # Idle 20 W. Second 0: nobody. Second 1: one computes 1,000 prompt tokens (3 J). Second 2: it decodes 50
    # tokens (2 J) while another computes 1,000 (3 J). Second 3: both decode 25 (1 J each). Second 4: nobody.
    file = tmp_path / "trace.csv"
    energy = [0, 20, 43, 68, 90, 110]
    file.write_text("t_s,energy_j\n" + "".join(f"{t},{j}\n" for t, j in enumerate(energy)))
    config = MeterConfig(name="m", source="replay", at=str(file), level="chip", pools=("edge",), idle_w=20.0)
    bank, _ = open_bank([config], open_meter)
    windows = [w for t in range(6) for w in bank.sample(None, t_s=float(t), wall_us=t * S)]
    assert [(w.total_uj, w.idle_uj) for w in windows] == [(uj * S, 20 * S) for uj in (20, 23, 25, 22, 20)]
    works = [
        Work(1, 1, "edge", "m", 1 * S, 2 * S, 3 * S, 1_000, 50),
        Work(2, 2, "edge", "m", 2 * S, 3 * S, 4 * S, 1_000, 25),
        Work(3, 3, "edge", "m", 3 * S, 3 * S, 4 * S, 0, 25),
    ]
    true = {"edge": Weights(PREFILL_UJ, DECODE_UJ, 0, 0, "by hand")}
    parts = [split(w, works, weights=true) for w in windows]
    assert [p.by_work for p in parts] == [{}, {1: 3 * S}, {1: 2 * S, 2: 3 * S}, {2: S, 3: S}, {}]
    assert sum(p.unattributed_uj for p in parts) == 0


def test_refits_of_the_same_load_say_the_same_words() -> None:
    """A fit each ten minutes for a year would otherwise leave a text each in the books."""
    dice = random.Random(4)
    said = set()
    for _ in range(52_560):
        noise = [dice.gauss(1.0, 0.005) for _ in range(3)]
        said.add(
            Weights(
                *(round(w * n) for w, n in zip((1 << 20, 4 << 20, 512), noise, strict=True)), 9, ""
            ).ratios
        )
    assert 1 < len(said) < 12, said


def test_books_learn_weights_from_their_windows_and_use_them(tmp_path: Path) -> None:
    db = LedgerDb(tmp_path / "ledger.db")
    rng = random.Random(11)
    for second in range(600):
        prefill, decode = rng.choice((0, rng.randrange(3000))), rng.randrange(200)
        works = [
            Work(1, 1, "edge", "m", second * S, (second + 1) * S, (second + 1) * S, prefill, 0),
            Work(2, 1, "edge", "m", second * S, second * S, (second + 1) * S, 0, decode, rng.randrange(500)),
        ]
        clean = PREFILL_UJ * prefill + DECODE_UJ * decode + 2 * S + S * second // 600
        uj = round(clean * (1 + rng.gauss(0, 0.03)))
        window = MeterWindow("m", second * S, (second + 1) * S, uj, 0, {"edge": uj}, 0, "measured", "x")
        learn(db, window, works)
        if second == 30:
            assert weights_in_force(db) == {}, "too early to know"
    learnt = weights_in_force(db)["edge"]
    scale = learnt.prefill / PREFILL_UJ
    assert abs(scale / (1 << 20) - 1) < 0.05
    # What a decoded token weighs at the mean context of these windows, whichever way the two share it.
    assert abs((learnt.decode + 350 * learnt.context) / scale / DECODE_UJ - 1) < 0.07
    assert learnt.source.startswith("fitted") and "condition" in learnt.source
    db.close()
