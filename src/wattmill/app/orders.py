"""Orders to the one writer of the books: a command leaves one in a folder, the ledger process carries
it out."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from wattmill.app.home import Home
from wattmill.ledger.booking import Bookkeeper
from wattmill.ledger.in_doubt import Rule, settle


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """Settle one attempt in doubt by a rule."""

    attempt: int
    rule: Rule


class Orders:
    """The folder `run/orders`, one file each, written whole by rename."""

    def __init__(self, home: Home) -> None:
        self.folder = home.run / "orders"

    def leave(self, order: Settle) -> Path:
        """Hand in an order; it is carried out when its file is gone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{secrets.token_hex(8)}.json"
        draft = path.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(order))
        os.replace(draft, path)
        return path

    def carry_out(self, books: Bookkeeper, *, at_us: int) -> int:
        """Do what was ordered, in one transaction; an order for what is no longer in doubt does nothing, and
        one that cannot be priced is an alarm."""
        try:
            paths = sorted(self.folder / name for name in os.listdir(self.folder) if name.endswith(".json"))
        except FileNotFoundError:
            return 0
        if not paths:
            return 0
        doubts = dict(books.doubts())
        prices = books.prices()
        for path in paths:
            try:
                order = msgspec.json.decode(path.read_bytes(), type=Settle)
            except msgspec.DecodeError:
                continue
            start = doubts.pop(order.attempt, None)
            if start is None:
                continue
            charge, cost = prices.get(start.charge_price), prices.get(start.cost_price)
            if charge is None or cost is None:
                text = f"attempt {order.attempt} cannot be settled: price version {start.charge_price} or "
                text += f"{start.cost_price} is not known"
                books.db.alarm(at_us, "unpriced", text, "", start.seq)
                continue
            books.settle(order.attempt, settle(start, order.rule, charge=charge, cost=cost), at_us=at_us)
        books.commit()
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)
