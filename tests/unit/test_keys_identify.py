"""API keys: shown once, stored hashed, known in microseconds, ended at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wattmill.app.declared.settings import Org, Team
from wattmill.app.identify import Keyring, read_entries
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import ControlError, KeyRecord, NoSuch, Taken
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

NOW = 1_700_000_000_000_000


class Desk:
    """A control database with a clock that the test sets, one team, and a keyring that follows."""

    def __init__(self, folder: Path) -> None:
        self.now_us = NOW
        self.folder = folder
        self.control = Control(folder / "control.db", wall_us=lambda: self.now_us)
        self.team = self.control.put_team(self.control.put_org("demo"), "load")
        self.keyring = Keyring()

    def ask(self, authorization: str | bytes | None) -> Caller | Refusal:
        self.keyring.replace(read_entries(self.control))
        raw = authorization.encode() if isinstance(authorization, str) else authorization
        return self.keyring.identify(raw, self.now_us)

    def code(self, authorization: str | bytes | None) -> str:
        answer = self.ask(authorization)
        return answer.code if isinstance(answer, Refusal) else "ok"

    def key(self, name: str = "ci", **options: object) -> tuple[KeyRecord, str]:
        return self.control.create_key(self.team, name, **options)  # type: ignore[arg-type]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.control.close()


def test_a_key_tells_who_is_asking_and_what_it_may_do(desk: Desk) -> None:
    key, secret = desk.key(models=["a", "b"], pools=["edge"], endpoints=["chat"], privacy="private")
    assert desk.ask(f"Bearer {secret}") == Caller(
        key=key.id,
        name="demo/load/ci",
        path=key.path,
        models=frozenset({"a", "b"}),
        pools=frozenset({"edge"}),
        endpoints=frozenset({"chat"}),
        privacy="private",
    )


def test_a_secret_is_long_random_and_marked(desk: Desk) -> None:
    secrets = [desk.key(f"k{i}")[1] for i in range(20)]
    assert len(set(secrets)) == 20
    assert all(secret.startswith("wm-") and len(secret) >= 3 + 32 for secret in secrets)


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {}", " Bearer {} ", "bEaReR {}"])
def test_the_scheme_is_read_without_regard_to_case(desk: Desk, form: str) -> None:
    _, secret = desk.key()
    assert desk.code(form.format(secret)) == "ok"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_key"),
        (b"", "missing_key"),
        (b"Bearer", "missing_key"),
        (b"Bearer ", "missing_key"),
        (b"Basic dXNlcg==", "invalid_key"),
        (b"Bearer wm-" + b"x" * 43, "invalid_key"),
        (b"Bearer \xff\xfe\x00", "invalid_key"),
        (b"wm-" + b"x" * 43, "invalid_key"),
    ],
)
def test_what_is_no_key_is_refused(desk: Desk, header: bytes | None, code: str) -> None:
    desk.key()
    assert desk.code(header) == code


def test_no_refusal_repeats_the_secret(desk: Desk) -> None:
    key, secret = desk.key()
    wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    answers = [desk.ask(f"Bearer {wrong}"), desk.ask(f"Token {secret}"), desk.ask(secret)]
    desk.control.revoke_key(key.id)
    answers.append(desk.ask(f"Bearer {secret}"))
    for answer in answers:
        assert isinstance(answer, Refusal)
        assert secret[3:] not in answer.message and wrong[3:] not in answer.message


def test_a_revoked_key_ends_with_the_next_load_and_says_so(desk: Desk) -> None:
    key, secret = desk.key()
    assert desk.code(f"Bearer {secret}") == "ok"
    assert desk.control.revoke_key(key.id) and not desk.control.revoke_key(key.id)
    assert desk.code(f"Bearer {secret}") == "revoked_key"
    with pytest.raises(ControlError, match="is revoked; make a new key"):
        desk.control.rotate_key(key.id)


def test_a_key_expires_on_the_microsecond_without_a_reload(desk: Desk) -> None:
    _, secret = desk.key(expires_us=NOW + 5)
    desk.now_us = NOW + 4
    assert desk.code(f"Bearer {secret}") == "ok"
    assert isinstance(answer := desk.keyring.identify(f"Bearer {secret}".encode(), NOW + 5), Refusal)
    assert answer.code == "expired_key"


def test_a_rotated_key_keeps_its_node_and_its_old_secret_for_the_grace_only(desk: Desk) -> None:
    key, old = desk.key(models=["m"])
    again, new = desk.control.rotate_key(key.id, grace_s=60)
    assert (again.id, again.models) == (key.id, ("m",)) and again.prefix == new[:7] != old
    assert desk.ask(f"Bearer {old}") == desk.ask(f"Bearer {new}")
    desk.now_us += 60_000_000
    assert (desk.code(f"Bearer {old}"), desk.code(f"Bearer {new}")) == ("revoked_key", "ok")
    _, newest = desk.control.rotate_key(key.id)
    assert (desk.code(f"Bearer {new}"), desk.code(f"Bearer {newest}")) == ("revoked_key", "ok")


def test_a_second_rotation_never_lengthens_the_life_of_the_first_secret(desk: Desk) -> None:
    key, first = desk.key()
    desk.control.rotate_key(key.id, grace_s=10)
    desk.control.rotate_key(key.id, grace_s=1_000)
    desk.now_us += 10_000_000
    assert desk.code(f"Bearer {first}") == "revoked_key"


def test_no_secret_is_on_disk_in_clear(desk: Desk) -> None:
    secrets = [desk.key("a")[1], desk.key("b")[1]]
    secrets.append(desk.control.rotate_key(desk.control.keys()[0].id, grace_s=60)[1])
    token = desk.control.ensure_admin_token()
    assert token is not None
    files = [file for file in desk.folder.rglob("*") if file.is_file()]
    assert any(file.name.endswith("-wal") and file.stat().st_size for file in files), (
        "the WAL must be looked at"
    )
    for secret in [*secrets, token]:
        for part in (secret.encode(), secret[8:].encode(), secret.encode().hex().encode()):
            assert not [file for file in files if part in file.read_bytes()]


def test_keys_that_cannot_be_made_say_why(desk: Desk) -> None:
    key, _ = desk.key()
    with pytest.raises(Taken, match="a revoked key keeps its name"):
        desk.key()
    with pytest.raises(ControlError, match="is a key; a key is made under a team"):
        desk.control.create_key(key.id, "below")
    with pytest.raises(NoSuch, match="no node 99"):
        desk.control.create_key(99, "x")
    with pytest.raises(ControlError, match="privacy is 'secret', must be one of: public, internal, private"):
        desk.key("x", privacy="secret")
    with pytest.raises(ControlError, match="endpoints have 'chatt'"):
        desk.key("x", endpoints=["chatt"])
    with pytest.raises(ControlError, match="must be later than now"):
        desk.key("x", expires_us=NOW)
    with pytest.raises(ControlError, match=r"grace is -1 s, must be >= 0"):
        desk.control.rotate_key(key.id, -1)
    with pytest.raises(NoSuch, match="no key 99"):
        desk.control.revoke_key(99)
    records = desk.control.keys()
    assert [record.name for record in records] == ["ci"], "a refused key leaves nothing behind"


def test_an_empty_scope_allows_nothing_and_no_scope_allows_all(desk: Desk) -> None:
    _, none = desk.key("none", models=[])
    _, all_ = desk.key("all")
    assert isinstance(a := desk.ask(f"Bearer {none}"), Caller) and a.models == frozenset()
    assert isinstance(b := desk.ask(f"Bearer {all_}"), Caller) and b.models is None


def test_a_keys_tier_is_its_own_or_its_teams_or_its_organisations_or_the_factorys(tmp_path: Path) -> None:
    tenants = {
        "acme": Org(tier="gold", teams={"search": Team(tier="premium"), "plain": Team()}),
        "other": Org(teams={"team": Team()}),
    }
    with Control(tmp_path / "control.db") as control:
        acme, other = control.put_org("acme"), control.put_org("other")
        search, plain = control.put_team(acme, "search"), control.put_team(acme, "plain")
        for team, name, tier in (
            (search, "own", "free"),
            (search, "teams", None),
            (plain, "orgs", None),
            (control.put_team(other, "team"), "default", None),
        ):
            control.create_key(team, name, tier=tier)

        def tiers(default: str) -> dict[str, str]:
            entries = read_entries(control, tenants, tier=default).values()
            return {entry.caller.name.rpartition("/")[2]: entry.caller.tier for entry in entries}

        assert tiers("medium") == {"own": "free", "teams": "premium", "orgs": "gold", "default": "medium"}
        assert set(tiers("").values()) == {""}  # no tiers are declared
        key = next(one for one in list(control.keys()) if one.name == "own")
        assert control.set_tier(key.id, "high") and not control.set_tier(key.id, "high")
        assert tiers("medium")["own"] == "high"
        assert control.set_tier(key.id, None)
        assert tiers("medium")["own"] == "premium"
