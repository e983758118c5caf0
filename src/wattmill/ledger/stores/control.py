"""The control database: who may spend, how much, at which price, and what is granted to whom.

Small and shared by all processes of a factory (WAL). Every call is one short transaction and may block for
some milliseconds: call it in a thread, never on an event loop. The books are elsewhere (`ledger.db`).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from wattmill.ledger import tenancy
from wattmill.ledger.stores import control_leases, control_prices
from wattmill.ledger.stores import control_tenants as tenants
from wattmill.ledger.stores.control_leasing import Leasing
from wattmill.ledger.stores.control_limits import grow
from wattmill.ledger.stores.control_records import (
    ControlError,
    Credential,
    KeyRecord,
    Node,
)
from wattmill.ledger.stores.control_schema import connect
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Provenance

if TYPE_CHECKING:
    pass

ADMIN_MARK = "wma-"
SINCE_1970_US = 0


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Control(Leasing):
    """One process's door to the control database; its threads take turns. Do not use it across a fork.

    Administration and config are durable against the death of the machine when a call returns; leases
    against the death of the process (a lost lease is made good from the journal by `close_epoch`).
    """

    def __init__(self, path: Path, *, busy_s: float = 5.0, wall_us: Callable[[], int] = _wall_us) -> None:
        self._db = connect(path, busy_s=busy_s)
        self._turn = threading.Lock()
        self.wall_us = wall_us
        self._find_shared()

    def close(self) -> None:
        if self.shared is not None:
            self.shared.close()
        with self._turn:
            self._db.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # --- what changed ------------------------------------------------------------------------------------

    def data_version(self) -> int:
        """Return a number that changes when any *other* connection wrote anything, leases too."""
        with self._turn:
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def generation(self) -> int:
        """Return a number that grows with each change of nodes, caps, keys, prices or configuration, and of
        runs (`control_limits.declared_part` tells which)."""
        with self.reading() as db:
            return int(db.execute("SELECT number FROM generation").fetchone()[0])

    # --- the tree of spenders ----------------------------------------------------------------------------

    def put_org(self, name: str, cap_nusd: int | None = None, *, keep_cap: bool = False) -> int:
        """Make an organisation, or set the cap of the one with that name. Returns its node.

        With `keep_cap` an existing one stays as it is: a cap set at run time outlives a start.
        """
        return self._put(None, "org", name, cap_nusd, keep_cap)

    def put_team(
        self, org: int | str, name: str, cap_nusd: int | None = None, *, keep_cap: bool = False
    ) -> int:
        """Make a team of `org` (node or name), or set the cap of the one with that name. Returns its node."""
        parent = self.find(org).id if isinstance(org, str) else org
        return self._put(parent, "team", name, cap_nusd, keep_cap)

    def nodes(self, *, runs: bool = True, ended: bool = True) -> dict[int, Node]:
        """Return all nodes by id, parents before children. See `tenancy.path_of` and `tenancy.name_of`.
        Without `runs`: down to the keys only; without `ended`: none that was closed or stopped."""
        with self.reading() as db:
            return tenants.nodes(db, runs=runs, ended=ended)

    def find(self, name: str) -> Node:
        """Return the node called "org", "org/team" or "org/team/key". Raises `NoSuch`."""
        return tenancy.find(self.nodes(), name)

    def set_cap(self, node: int, cap_nusd: int | None) -> None:
        """Set or lift a cap. What workers already hold above a lower one is asked back at once.

        Requests in flight are not cut, so use may pass a cap that is lowered under them; nothing more is
        granted then. Effective on each worker when it next looks (about 0.25 s).
        """
        tenancy.checked_cap(cap_nusd)
        with self.writing() as db:
            tenants.node(db, node)
            db.execute("UPDATE node SET cap_nusd = ? WHERE id = ?", (cap_nusd, node))
            control_leases.recall_if_overcommitted(db, node)
            grow(db)

    def _put(self, parent: int | None, kind: str, name: str, cap_nusd: int | None, keep_cap: bool) -> int:
        with self.writing() as db:
            if parent is not None and tenants.node(db, parent).kind == "key":
                raise ControlError(f"node {parent} is a key; a {kind} cannot stand under it")
            id, changed = tenants.put_node(
                db, parent, kind, name, cap_nusd, self.wall_us(), keep_cap=keep_cap
            )
            if changed:
                control_leases.recall_if_overcommitted(db, id)
                grow(db)
            return id

    # --- keys --------------------------------------------------------------------------------------------

    def create_key(
        self,
        team: int,
        name: str,
        *,
        models: Iterable[str] | None = None,
        pools: Iterable[str] | None = None,
        endpoints: Iterable[str] | None = None,
        privacy: str = "internal",
        expires_us: int | None = None,
        cap_nusd: int | None = None,
        requires_run: bool = False,
        tier: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key and return it with its secret, which is shown here only: the database has its hash.

        Scopes: None is no restriction, an empty list allows nothing.
        """
        draft = KeyRecord(
            id=0,
            name=name,
            path=(),
            full_name="",
            prefix="",
            privacy=privacy,
            created_us=0,
            models=None if models is None else tuple(models),
            pools=None if pools is None else tuple(pools),
            endpoints=None if endpoints is None else tuple(endpoints),
            expires_us=expires_us,
            cap_nusd=cap_nusd,
            requires_run=requires_run,
            tier=tier,
        )
        with self.writing() as db:
            id, secret = tenants.create_key(db, team, name, draft, self.wall_us())
            grow(db)
            return _key(db, id), secret

    def rotate_key(self, id: int, grace_s: float = 0.0) -> tuple[KeyRecord, str]:
        """Return the key with a new secret; the old one stays good for `grace_s` seconds."""
        with self.writing() as db:
            secret = tenants.rotate_key(db, id, grace_s, self.wall_us())
            grow(db)
            return _key(db, id), secret

    def set_tier(self, id: int, tier: str | None) -> bool:
        """Give a key a tier of its own, or with None that of its team. False if it has that already."""
        with self.writing() as db:
            changed = tenants.set_tier(db, id, tier)
            if changed:
                grow(db)
            return changed

    def revoke_key(self, id: int) -> bool:
        """End a key for good; within 1 s on every worker. False if it was revoked before."""
        with self.writing() as db:
            changed = tenants.revoke_key(db, id, self.wall_us())
            if changed:
                grow(db)
            return changed

    def keys(self) -> list[KeyRecord]:
        """Return all keys, revoked ones too, oldest first."""
        with self.reading() as db:
            return tenants.keys(db)

    def credentials(self) -> tuple[list[KeyRecord], list[Credential]]:
        """Return keys and the hashes of their secrets, of one moment: what a gateway's keyring is made of."""
        with self.reading() as db:
            return tenants.keys(db), tenants.credentials(db)

    # --- the admin token ---------------------------------------------------------------------------------

    def ensure_admin_token(self, *, renew: bool = False) -> str | None:
        """Return a new admin token if there is none yet (or `renew`, which ends the old one), else None."""
        with self.writing() as db:
            if renew:
                db.execute("DELETE FROM admin_token")
            elif db.execute("SELECT 1 FROM admin_token").fetchone():
                return None
            token = tenancy.new_secret(ADMIN_MARK)
            db.execute("INSERT INTO admin_token VALUES (?, ?)", (tenancy.secret_hash(token), self.wall_us()))
            return token

    def check_admin_token(self, token: str) -> bool:
        with self.reading() as db:
            row = db.execute(
                "SELECT 1 FROM admin_token WHERE sha256 = ?", (tenancy.secret_hash(token),)
            ).fetchone()
            return row is not None

    # --- prices and configuration ------------------------------------------------------------------------

    def publish_price(
        self,
        book: str,
        model: str,
        rates_nusd_per_mtok: Sequence[int | None],
        request_nusd: int = 0,
        effective_us: int | None = None,
        source: str = "",
        provenance: Provenance = "declared",
    ) -> Price:
        """Publish a price version, or return the one in force if it says the same. Versions are never edited.

        `effective_us` None: from now on (the first price of a model: since ever, so that none of its
        requests is older than its price).
        """
        now_us = self.wall_us()
        with self.writing() as db:
            at_us = now_us if effective_us is None else effective_us
            if effective_us is None and control_prices.in_force(db, book, model, now_us) is None:
                at_us = SINCE_1970_US
            draft = Price(
                id=0,
                book=book,
                model=model,
                rates_nusd_per_mtok=tuple(rates_nusd_per_mtok),
                request_nusd=request_nusd,
                effective_us=at_us,
                source=source,
                provenance=provenance,
            )
            price, new = control_prices.publish(db, draft, now_us=now_us, since_ever=effective_us is None)
            if new:
                grow(db)
            return price

    def prices(self) -> dict[int, Price]:
        """Return every version by id, oldest first."""
        with self.reading() as db:
            return control_prices.all_versions(db)

    def price_at(self, book: str, model: str, at_us: int) -> Price | None:
        """Return the version that holds at an instant: the last to begin; of equals the last published."""
        with self.reading() as db:
            return control_prices.in_force(db, book, model, at_us)

    def put_config(self, text: str, at_us: int) -> int:
        """Keep the accepted declaration; returns its version (the same one if the text is the newest)."""
        with self.writing() as db:
            before = control_prices.config(db)
            version = control_prices.put_config(db, text, at_us)
            if before is None or before[0] != version:
                grow(db)
            return version

    def config(self) -> tuple[int, str] | None:
        """Return version and text of the newest declaration."""
        with self.reading() as db:
            return control_prices.config(db)


def _key(db: sqlite3.Connection, id: int) -> KeyRecord:
    return next(key for key in tenants.keys(db) if key.id == id)
