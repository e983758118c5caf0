"""What a worker does when a run was opened or ended: `python benchmarks/rereading.py [KEYS] [RUNS]`.

Before, it read everything anew, as it still does when anything but a run changes. Prints both, in
milliseconds of CPU, as the least of several rounds.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wattmill.app.identify import Keyring, read_entries
from wattmill.app.runs.desk import Desk
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_runs import Runs

ROUNDS = 9


def least_ms(what: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        what()
        times.append(time.process_time() - began)
    return min(times) * 1e3


def main() -> None:
    keys, known = (int(text) for text in [*sys.argv[1:], "2000", "500"][:2])
    with tempfile.TemporaryDirectory() as folder, Control(Path(folder) / "control.db") as control:
        team = control.put_team(control.put_org("demo"), "load")
        first = control.create_key(team, "key-0")[0]
        for n in range(1, keys):
            control.create_key(team, f"key-{n}")
        desk = Desk(control, wall_us=control.wall_us)
        held = [desk.learn(Runs(control).open(first.id)[0], ()) for _ in range(known)]
        ring = Keyring()
        everything = least_ms(lambda: ring.replace(read_entries(control)))
        runs = least_ms(lambda: asyncio.run(desk.reread()))
        looked = least_ms(control.generation)
        print(
            f"{keys} keys, {len(held)} known runs: all keys anew {everything:.2f} ms; "
            f"the runs alone {runs:.2f} ms; looking whether anything changed {looked:.3f} ms"
        )


if __name__ == "__main__":
    main()
