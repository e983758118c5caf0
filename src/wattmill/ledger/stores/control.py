"""The control database: who may spend, how much, at which price, and what is granted to whom.

Small and shared by all processes of a factory (WAL). Every call is one short transaction and may block for
some milliseconds: call it in a thread, never on an event loop. The books are elsewhere (`ledger.db`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from wattmill.ledger import tenancy
from wattmill.ledger.stores import control_leases, control_prices
from wattmill.ledger.stores import control_tenants as tenants
from wattmill.ledger.stores.control_limits import grow, limit_states, with_limits
from wattmill.ledger.stores.control_records import (
    Ask,
    Budget,
    ControlError,
    Credential,
    Denied,
    Holding,
    KeyRecord,
    Node,
    NoSuch,
    Opening,
    Turned,
)
from wattmill.ledger.stores.control_schema import connect
from wattmill.ledger.stores.control_write_off import WrittenOff, write_off
from wattmill.vocab.price import Price
from wattmill.vocab.usage import Provenance

if TYPE_CHECKING:
    from wattmill.ledger.stores.postgres import Leases

ADMIN_MARK = "wma-"
SINCE_1970_US = 0


def _wall_us() -> int:
    return time.time_ns() // 1_000


class Control:
    """One process's door to the control database; its threads take turns. Do not use it across a fork.

    Administration and config are durable against the death of the machine when a call returns; leases
    against the death of the process (a lost lease is made good from the journal by `close_epoch`).
    """

    def __init__(self, path: Path, *, busy_s: float = 5.0, wall_us: Callable[[], int] = _wall_us) -> None:
        self._db = connect(path, busy_s=busy_s)
        self._turn = threading.Lock()
        self.wall_us = wall_us
        self.shared: Leases | None = None
        """Where leases are kept if not here."""
        self._find_shared()

    def share(self, url: str | None) -> None:
        """Keep leases in a PostgreSQL database from now on, or here (None). Do this before workers start:
        what was used before stays where it was counted."""
        with self.writing() as db:
            db.execute("DELETE FROM shared")
            if url is not None:
                db.execute("INSERT INTO shared VALUES (1, ?)", (url,))
        self._find_shared()

    def _find_shared(self) -> None:
        with self.reading() as db:
            row = db.execute("SELECT url FROM shared").fetchone()
        if self.shared is not None:
            self.shared.close()
        self.shared = None
        if row is not None:
            from wattmill.ledger.stores.postgres import Leases

            self.shared = Leases(row[0], self)

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
        """Return a number that grows with each change of nodes, caps, keys, prices or configuration."""
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

    def nodes(self, *, runs: bool = True) -> dict[int, Node]:
        """Return all nodes by id, parents before children. See `tenancy.path_of` and `tenancy.name_of`.
        Without `runs`: down to the keys only."""
        with self.reading() as db:
            return tenants.nodes(db, runs=runs)

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

    # --- leases: see control_leases for the law ----------------------------------------------------------

    def opening(self, epoch: str, nodes: Sequence[int]) -> Opening:
        """Return the limits at some nodes, and what an epoch holds there already."""
        if self.shared is not None:
            return self.shared.opening(epoch, nodes)
        with self.reading() as db:
            return control_leases.opening(db, epoch, nodes)

    def lease(self, epoch: str, asks: Sequence[Ask]) -> dict[int, int] | Denied | Turned:
        """Grant a live epoch of all gauges of `asks`, or of none. Returns what was granted now."""
        if self.shared is not None:
            return self.shared.lease(epoch, asks)
        with self.writing(durable=False) as db:
            return control_leases.lease(db, epoch, asks)

    def report(self, epoch: str, holdings: Mapping[int, Holding]) -> None:
        """Note totals of a live epoch by gauge, and take back what it does not keep. Idempotent."""
        if self.shared is not None:
            self.shared.report(epoch, holdings)
            return
        with self.writing(durable=False) as db:
            control_leases.report(db, epoch, holdings)

    def recalls(self, epoch: str) -> frozenset[int]:
        """Return gauges of which others need what `epoch` holds idle; `report` answers them."""
        if self.shared is not None:
            return self.shared.recalls(epoch)
        with self.reading() as db:
            return control_leases.recalls(db, epoch)

    def renew(self, epoch: str, term_us: int, place: str = "") -> None:
        """Note that a worker lives and may reserve for a term without saying so again."""
        if self.shared is not None:
            self.shared.renew(epoch, term_us, place)
            return
        with self.writing(durable=False) as db:
            control_leases.renew(db, epoch, self.wall_us(), term_us, place)

    def close_epoch(self, epoch: str, used: Mapping[int, int]) -> bool:
        """Fold the leases of a confirmed-dead epoch: only recovery calls this, never a timer.

        `used` is what the whole life of the epoch took of each gauge (a node's cap, or a period of a limit),
        requests in doubt at their reservation; an absent one was not used. All the rest of its grants is
        free again. Idempotent: False, and nothing changes, if the epoch was closed before.
        """
        if self.shared is not None:
            return self.shared.close_epoch(epoch, used)
        with self.writing() as db:
            return control_leases.close_epoch(db, epoch, used, self.wall_us())

    def adjust_used(self, id: str, delta: Mapping[int, int]) -> bool:
        """Correct what a closed epoch used, once per `id` (e.g. a request in doubt was settled lower)."""
        if self.shared is not None:
            return self.shared.adjust_used(id, delta)
        with self.writing() as db:
            return control_leases.adjust(db, id, delta, self.wall_us())

    def write_off(self, epoch: str, *, return_idle: bool = False) -> list[WrittenOff]:
        """End the leases of an epoch whose machine and journal are lost, by a person's word."""
        if self.shared is not None:
            return self.shared.write_off(epoch, return_idle=return_idle)
        with self.writing() as db:
            return write_off(db, epoch, self.wall_us(), return_idle=return_idle)

    def live_epochs(self) -> list[str]:
        """Return the epochs that hold leases: alive, or dead and not yet recovered."""
        if self.shared is not None:
            return self.shared.live_epochs()
        with self.reading() as db:
            return control_leases.live_epochs(db)

    def summary(self, node: int) -> Budget:
        """Return the money of one node."""
        if self.shared is not None:
            found = [budget for budget in self.shared.summaries() if budget.node == node]
        else:
            with self.reading() as db:
                found = self._with_limits(db, control_leases.budgets(db, node))
        if not found:
            raise NoSuch(f"no node {node} in the budget tree; `wattmill budget show` lists them")
        return found[0]

    def summaries(self, *, runs: bool = True) -> list[Budget]:
        """Return the money of all nodes, of one moment. Without `runs`: down to the keys only."""
        if self.shared is not None:
            return self.shared.summaries()
        with self.reading() as db:
            return self._with_limits(db, control_leases.budgets(db, runs=runs))

    def _with_limits(self, db: sqlite3.Connection, found: list[Budget]) -> list[Budget]:
        return with_limits(found, limit_states(db, self.wall_us(), {budget.node for budget in found}))

    # --- transactions ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction that checks and writes; for the modules beside this one."""
        with self._turn:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            # IMMEDIATE: what is checked and what is written are one step for all processes.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction that sees one moment."""
        with self._turn:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")


def _key(db: sqlite3.Connection, id: int) -> KeyRecord:
    return next(key for key in tenants.keys(db) if key.id == id)
