"""The live line of `wattmill up`: one line from watts to dollars, rewritten in place on a terminal."""

from __future__ import annotations

import sys
import time

from rich.console import Console

from wattmill.app.home import Home
from wattmill.app.seeing.board import Figures
from wattmill.app.seeing.figure import Figure
from wattmill.app.seeing.figures import figures
from wattmill.twin.calibration.error import current_error

_MARKS = {"measured": "", "declared": "", "modelled": "~", "estimated": "≈", "unknown": ""}
_PLAIN_EVERY_S = 10.0  # where there is no terminal, a line for the log


class LiveLine:
    """Prints at most one line a second; notes scroll above it."""

    def __init__(self, console: Console, home: Home) -> None:
        self._console = console
        self._home = home
        self._next_s = 0.0
        self._shown = False
        self._live = console.is_terminal
        self.is_due = False

    def tick(self) -> None:
        now_s = time.monotonic()
        self.is_due = now_s >= self._next_s
        if not self.is_due:
            return
        self._next_s = now_s + (1.0 if self._live else _PLAIN_EVERY_S)
        width = self._width() if self._live else None
        seen = figures(self._home, time.time_ns() // 1_000)
        self.say(told(seen, width, current_error(self._home.root)))

    def say(self, text: str) -> None:
        """Show `text` in the place of the line."""
        if self._live:
            sys.stdout.write("\r\x1b[2K" + text[: self._width()])
            sys.stdout.flush()
            self._shown = True
        else:
            print(text, flush=True)

    def _width(self) -> int:
        return max(20, self._console.width - 1)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, flush=True)

    def clear(self) -> None:
        if self._shown:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
            self._shown = False


_CELLS = (
    ("", "host_w"),
    ("useful ", "useful"),
    ("", "tok_per_s"),
    ("", "usd_per_mtok"),
    ("", "j_per_tok"),
    ("spent ", "spend"),
    ("ledger difference ", "difference"),
)
# What goes first where room is short. Money and books stay.
_NARROW = ("twin", "usd_per_mtok", "useful", "j_per_tok", "host_w", "tok_per_s")


def told(f: Figures, width: int | None = None, twin_error: tuple[float, str] | None = None) -> str:
    """Return the chain in one line: watts → useful share → tokens/s → $/M tokens, J/token → spend.

    `twin_error` is how far the twin's predictions were off, and on what; None: nobody measured that.

    In `width` columns the label of the books is shorter and whole figures are left out: half a sum of money
    would be a wrong one.
    """
    by_id = {item.id: item.figure for item in f.line}
    cells = {name: f"{label}{_cell(by_id.get(name))}" for label, name in _CELLS}
    if twin_error is not None:
        cells["twin"] = f"twin off {twin_error[0]:.0%} ({twin_error[1]})"
    text = " → ".join(cells.values())
    if width is None or len(text) <= width:
        return text
    cells["difference"] = cells["difference"].removeprefix("ledger ")
    for name in ("", *_NARROW):
        cells.pop(name, None)
        text = " → ".join(cells.values())
        if len(text) <= width:
            break
    return text


def _cell(value: Figure | None) -> str:
    if value is None or value.value is None:
        return "–"
    return f"{_MARKS.get(value.provenance, '')}{value.text}"
