"""Who holds this key: the answer in microseconds, from a table in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from wattmill.app.batches.spec import INSIDE
from wattmill.app.declared.settings import Org, Team
from wattmill.ledger.stores.control import Control
from wattmill.vocab.caller import PRIVACY_CLASSES, Caller
from wattmill.vocab.refusal import Refusal


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one secret stands for."""

    caller: Caller
    expires_us: int | None
    until_us: int | None  # end of a replaced secret
    revoked: bool


def read_entries(
    control: Control, tenants: Mapping[str, Org] = MappingProxyType({}), *, tier: str = ""
) -> dict[bytes, Entry]:
    """Return all secrets by their SHA-256, ended ones too (they get an answer of their own). Blocks.

    What the declaration says of an organisation or team only makes a key stricter: the most sensitive class
    holds, and of regions and operators those that all of them allow. `tier` is that of keys for which neither
    they themselves nor their team or organisation name one; "" where there are no tiers."""
    keys, credentials = control.credentials()
    by_node = {key.id: key for key in keys}
    above = {key.id: _above(key.full_name, tenants) for key in keys}
    callers = {
        key.id: Caller(
            key=key.id,
            name=key.full_name,
            path=key.path,
            models=_scope(key.models),
            pools=_scope(key.pools),
            endpoints=_scope(key.endpoints),
            privacy=max(
                (key.privacy, *(a.privacy for a in above[key.id] if a.privacy)), key=PRIVACY_CLASSES.index
            ),
            residency=allowed_by_all(a.residency for a in above[key.id]),
            operators=allowed_by_all(a.operators for a in above[key.id]),
            expires_us=key.expires_us,
            requires_run=key.requires_run,
            tier=_tier(key.tier, above[key.id], tier),
            policy=next((one.policy for one in reversed(above[key.id]) if one.policy), None),
        )
        for key in keys
    }
    return {
        c.sha256: Entry(
            callers[c.node], by_node[c.node].expires_us, c.until_us, by_node[c.node].revoked_us is not None
        )
        for c in credentials
    }


class Keyring:
    """The keys that a worker knows. `replace` swaps them whole, so a revoked key ends with one assignment.

    A first lookup costs the same for known and unknown keys (one SHA-256, one dictionary access), and nothing
    about a stored secret can be learnt from its time: who sends a guess does not choose its hash. A header
    that was good is remembered, so that its hash is not computed for each request.
    """

    def __init__(self, entries: dict[bytes, Entry] | None = None) -> None:
        self._entries = entries or {}
        self._by_node: dict[int, Entry] = {}
        self._met: dict[bytes, tuple[Caller, Entry | None]] = {}
        self.inside: Callable[[bytes], int | None] | None = None
        """Tells which key (its node) a request from within this process is of; None: it is from elsewhere."""

    def __len__(self) -> int:
        return len(self._entries)

    def replace(self, entries: dict[bytes, Entry]) -> None:
        """Use `entries` (from `read_entries`, which runs in a thread) from now on."""
        self._entries = entries
        self._by_node = {}
        self._met = {}

    def caller_of(self, key: int, wall_us: int) -> Caller | Refusal:
        """Return the caller whose key is at node `key`, by whichever of its secrets still holds."""
        if not self._by_node:
            for entry in self._entries.values():
                known = self._by_node.get(entry.caller.key)
                if known is None or known.until_us is not None:
                    self._by_node[entry.caller.key] = entry
        found = self._by_node.get(key)
        return _UNKNOWN if found is None else _ended(found, wall_us) or found.caller

    def identify(self, authorization: bytes | None, wall_us: int) -> Caller | Refusal:
        """Return the caller of an `authorization` header. No message repeats what was sent."""
        if authorization is None:
            return _MISSING
        met = self._met.get(authorization)
        if met is not None:
            caller, may_end = met
            return caller if may_end is None else _ended(may_end, wall_us) or caller
        if authorization[:7] == b"Bearer ":  # as every client writes it
            secret = authorization[7:]
        else:
            scheme, _, secret = authorization.strip().partition(b" ")
            if scheme == INSIDE and self.inside is not None and (key := self.inside(secret)) is not None:
                return self.caller_of(key, wall_us)
            if scheme.lower() != b"bearer":
                return _WRONG_SCHEME if authorization.strip() else _MISSING
        entry = self._entries.get(hashlib.sha256(secret.strip()).digest())
        if entry is None:
            return _UNKNOWN if secret.strip() else _MISSING
        ends = entry.revoked or entry.until_us is not None or entry.expires_us is not None
        may_end = entry if ends else None
        if len(self._met) < _MOST_MET:  # only secrets that exist are kept, so guesses cannot fill it
            self._met[authorization] = (entry.caller, may_end)
        return entry.caller if may_end is None else _ended(may_end, wall_us) or entry.caller


_MOST_MET = 4_096
_HINT = "send `authorization: Bearer wm-...`; `wattmill keys create` makes a key"
_MISSING = Refusal(code="missing_key", message=f"no API key was sent: {_HINT}")
_WRONG_SCHEME = Refusal(code="invalid_key", message=f"the authorization header is not a bearer key: {_HINT}")
_UNKNOWN = Refusal(
    code="invalid_key",
    message="the API key is unknown here; `wattmill keys list` shows the prefixes of those that exist",
)


def _ended(entry: Entry, wall_us: int) -> Refusal | None:
    name = entry.caller.name
    if entry.revoked:
        return Refusal(code="revoked_key", message=f"key {name!r} was revoked; ask its owner for a new one")
    if entry.until_us is not None and wall_us >= entry.until_us:
        return Refusal(
            code="revoked_key", message=f"this secret of key {name!r} was replaced; use the new one"
        )
    if entry.expires_us is not None and wall_us >= entry.expires_us:
        return Refusal(code="expired_key", message=f"key {name!r} has expired; ask its owner for a new one")
    return None


def _tier(own: str | None, above: tuple[Org | Team, ...], otherwise: str) -> str:
    """Return what is said nearest to the key."""
    if not otherwise:
        return ""
    return own or next((one.tier for one in reversed(above) if one.tier), otherwise)


def _above(full_name: str, tenants: Mapping[str, Org]) -> tuple[Org | Team, ...]:
    """Return what is declared above the key "org/team/key"."""
    org_name, _, rest = full_name.partition("/")
    org = tenants.get(org_name)
    if org is None:
        return ()
    team = org.teams.get(rest.partition("/")[0])
    return (org,) if team is None else (org, team)


def allowed_by_all(rules: Iterable[Iterable[str] | None]) -> frozenset[str] | None:
    """Return what every rule allows; None where there is none."""
    given = [frozenset(rule) for rule in rules if rule is not None]
    return given[0].intersection(*given[1:]) if given else None


def _scope(values: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
