"""The tree of spenders and their keys, as the control database keeps them.

All functions run inside one transaction of the caller; see `stores.control.Control`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from wattmill.ledger.stores.control_leases import full_name
from wattmill.ledger.stores.control_records import ControlError, Credential, KeyRecord, Node, NoSuch, Taken
from wattmill.ledger.tenancy import (
    PREFIX_LEN,
    checked_cap,
    checked_name,
    name_of,
    new_secret,
    path_of,
    secret_hash,
)
from wattmill.units import US_PER_S
from wattmill.vocab.caller import PRIVACY_CLASSES
from wattmill.vocab.request import ENTRIES


def put_node(
    db: sqlite3.Connection,
    parent: int | None,
    kind: str,
    name: str,
    cap_nusd: int | None,
    now_us: int,
    *,
    keep_cap: bool = False,
) -> tuple[int, bool]:
    """Make a node or set the cap of the one with that name. Returns its id and whether anything changed."""
    checked_name(name)
    checked_cap(cap_nusd)
    row = db.execute(
        "SELECT id, kind, cap_nusd FROM node WHERE ifnull(parent, 0) = ? AND name = ?", (parent or 0, name)
    ).fetchone()
    if row is None:
        cursor = db.execute(
            "INSERT INTO node (parent, kind, name, cap_nusd, created_us) VALUES (?, ?, ?, ?, ?)",
            (parent, kind, name, cap_nusd, now_us),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid, True
    id, found_kind, found_cap = row
    if found_kind != kind:
        raise Taken(f"{name!r} is the name of a {found_kind} there; choose another name for the {kind}")
    if keep_cap or found_cap == cap_nusd:
        return id, False
    db.execute("UPDATE node SET cap_nusd = ? WHERE id = ?", (cap_nusd, id))
    return id, True


def node(db: sqlite3.Connection, id: int) -> Node:
    row = db.execute(
        "SELECT id, parent, kind, name, cap_nusd, created_us FROM node WHERE id = ?", (id,)
    ).fetchone()
    if row is None:
        raise NoSuch(f"no node {id} in the budget tree; `wattmill budget show` lists them")
    return _node(row)


ENDED_RUNS = "(SELECT node FROM run WHERE state IN ('stopped', 'closed'))"


def nodes(db: sqlite3.Connection, *, runs: bool = True, ended: bool = True) -> dict[int, Node]:
    """Return all nodes by id; a parent comes before its children. Without `runs`: down to the keys only;
    without `ended`: no runs that were closed or stopped."""
    only = "" if runs else "WHERE kind IN ('org', 'team', 'key') "
    if runs and not ended:
        only = f"WHERE id NOT IN {ENDED_RUNS} "
    rows = db.execute(f"SELECT id, parent, kind, name, cap_nusd, created_us FROM node {only}ORDER BY id")
    return {row[0]: _node(row) for row in rows}


def create_key(
    db: sqlite3.Connection, team: int, name: str, draft: KeyRecord, now_us: int
) -> tuple[int, str]:
    """Make a key under `team` with the scopes of `draft`. Returns its node and its secret."""
    parent = node(db, team)
    if parent.kind != "team":
        kind = {"org": "an organisation"}.get(parent.kind, f"a {parent.kind}")
        raise ControlError(f"{full_name(db, team)!r} is {kind}; a key is made under a team, ORG/TEAM")
    taken = db.execute("SELECT id FROM node WHERE parent = ? AND name = ?", (team, name)).fetchone()
    if taken:
        raise Taken(
            f"{full_name(db, taken[0])!r} exists (a revoked key keeps its name, for the books); "
            "choose another name, or `wattmill keys rotate` for a new secret of the same key"
        )
    _check_scopes(draft, now_us)
    id, _ = put_node(db, team, "key", name, draft.cap_nusd, now_us)
    db.execute(
        "INSERT INTO key (node, models, pools, endpoints, privacy, expires_us, requires_run, tier) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id,
            _json(draft.models),
            _json(draft.pools),
            _json(draft.endpoints),
            draft.privacy,
            draft.expires_us,
            draft.requires_run,
            draft.tier,
        ),
    )
    return id, _add_secret(db, id, now_us)


def rotate_key(db: sqlite3.Connection, id: int, grace_s: float, now_us: int) -> str:
    """Give a key a new secret; the present ones end after `grace_s` seconds at the latest."""
    if grace_s < 0:
        raise ControlError(f"grace is {grace_s} s, must be >= 0")
    if _key_row(db, id)[1] is not None:
        raise ControlError(f"key {full_name(db, id)!r} is revoked; make a new key instead")
    until_us = now_us + round(grace_s * US_PER_S)
    db.execute("UPDATE secret SET until_us = min(ifnull(until_us, ?1), ?1) WHERE node = ?2", (until_us, id))
    return _add_secret(db, id, now_us)


def set_tier(db: sqlite3.Connection, id: int, tier: str | None) -> bool:
    """Give a key a tier of its own, or with None that of its team. False if it has that already."""
    if _key_row(db, id)[1] is not None:
        raise ControlError(f"key {full_name(db, id)!r} is revoked; make a new key instead")
    changed = db.execute("UPDATE key SET tier = ?1 WHERE node = ?2 AND tier IS NOT ?1", (tier, id)).rowcount
    return changed > 0


def revoke_key(db: sqlite3.Connection, id: int, now_us: int) -> bool:
    """End a key for good. False if it was revoked before."""
    if _key_row(db, id)[1] is not None:
        return False
    db.execute("UPDATE key SET revoked_us = ? WHERE node = ?", (now_us, id))
    return True


def keys(db: sqlite3.Connection) -> list[KeyRecord]:
    """Return all keys, revoked ones too, in the order in which they were made."""
    tree = nodes(db, runs=False)
    prefixes = dict(db.execute("SELECT node, prefix FROM secret WHERE until_us IS NULL"))
    rows = db.execute(
        "SELECT node, models, pools, endpoints, privacy, expires_us, revoked_us, requires_run, tier FROM key "
        "ORDER BY node"
    )
    return [
        KeyRecord(
            id=id,
            name=tree[id].name,
            path=path_of(tree, id),
            full_name=name_of(tree, id),
            prefix=prefixes[id],
            privacy=privacy,
            created_us=tree[id].created_us,
            models=_tuple(models),
            pools=_tuple(pools),
            endpoints=_tuple(endpoints),
            expires_us=expires_us,
            revoked_us=revoked_us,
            cap_nusd=tree[id].cap_nusd,
            requires_run=bool(requires_run),
            tier=tier,
        )
        for id, models, pools, endpoints, privacy, expires_us, revoked_us, requires_run, tier in rows
    ]


def credentials(db: sqlite3.Connection) -> list[Credential]:
    return [Credential(*row) for row in db.execute("SELECT sha256, node, until_us FROM secret ORDER BY node")]


def _add_secret(db: sqlite3.Connection, id: int, now_us: int) -> str:
    secret = new_secret()
    db.execute(
        "INSERT INTO secret (sha256, node, prefix, created_us) VALUES (?, ?, ?, ?)",
        (secret_hash(secret), id, secret[:PREFIX_LEN], now_us),
    )
    return secret


def _key_row(db: sqlite3.Connection, id: int) -> tuple[int, int | None]:
    row = db.execute("SELECT node, revoked_us FROM key WHERE node = ?", (id,)).fetchone()
    if row is None:
        raise NoSuch(f"no key {id}; `wattmill keys list` shows them")
    return row[0], row[1]


LAST_US = 253_402_300_800_000_000
"""The end of the year 9999, the last that dates are written for."""


def _check_scopes(draft: KeyRecord, now_us: int) -> None:
    if draft.privacy not in PRIVACY_CLASSES:
        raise ControlError(f"privacy is {draft.privacy!r}, must be one of: {', '.join(PRIVACY_CLASSES)}")
    unknown = sorted(set(draft.endpoints or ()) - set(ENTRIES))
    if unknown:
        raise ControlError(f"endpoints have {unknown[0]!r}, must be some of: {', '.join(ENTRIES)}")
    if draft.expires_us is not None and not now_us < draft.expires_us < LAST_US:
        raise ControlError(
            f"expiry is {draft.expires_us} us, must be later than now ({now_us} us since 1970) and before "
            "the year 10000; leave it out for a key that does not expire"
        )


def _json(values: Iterable[str] | None) -> str | None:
    return None if values is None else msgspec.json.encode(sorted(set(values))).decode()


def _tuple(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(msgspec.json.decode(text, type=list[str]))


def _node(row: tuple[int, int | None, str, str, int | None, int]) -> Node:
    return Node(id=row[0], parent=row[1], kind=row[2], name=row[3], cap_nusd=row[4], created_us=row[5])
