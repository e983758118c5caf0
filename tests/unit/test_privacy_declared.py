"""What `[privacy]` may say, and what a team's rules make of its keys and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattmill.app.declared.declaration import Loaded, decode, example_text
from wattmill.app.declared.plan import backends, fleet_pools
from wattmill.app.identify import allowed_by_all
from wattmill.models.engines.adapter import ADAPTERS


def declared(text: str, host: str = "", team: str = "") -> Loaded | list[str]:
    """Return the built-in example with `text`, or its faults as `key: rule`."""
    whole = example_text().replace("[host]", f"[host]\n{host}")
    whole = whole.replace("[tenants.demo.teams.first-light]", f"[tenants.demo.teams.first-light]\n{team}")
    found = decode(whole + "\n" + text, file="wattmill.toml", folder=Path("/srv"), env={})
    return found if isinstance(found, Loaded) else [f"{p.key}: {p.rule}" for p in found]


def test_a_declaration_with_everything_in_it_is_right() -> None:
    found = declared(
        """
[privacy]
unreadable = "pass"
rules = [
    { pattern = "iban", action = "raise:private" },
    { pattern = "badge", action = "redact,raise:internal", teams = ["demo", "demo/load"] },
]
[privacy.patterns.badge]
regex = '\\bB-[0-9]+\\b'
[privacy.classes.private]
residency = ["eu"]
operators = ["us"]
[[privacy.hooks]]
name = "json"
stage = "output"
call = "json:loads"
window_chars = 10
""",
        host='region = "eu"\noperator = "us"',
        team='privacy = "private"\nresidency = ["eu"]',
    )
    assert isinstance(found, Loaded) and found.warnings == ()
    assert found.settings.tenants["demo"].teams["first-light"].privacy == "private"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[privacy]\nrules = [{ pattern = "ibam", action = "redact" }]', "no pattern 'ibam'"),
        ('[privacy]\nrules = [{ pattern = "iban", action = "raise" }]', "must match"),
        ('[privacy]\nrules = [{ pattern = "iban", action = "refuse", teams = ["no"] }]', "no tenant 'no'"),
        ("[privacy.patterns.x]\nregex = '(?=a)b'", "RE2's syntax"),
        ("[privacy.patterns.x]\nregex = 'a*'", "finds an empty text"),
        ("[privacy.patterns.email]\nregex = 'ab'", "name of a built-in pattern"),
        ('[[privacy.hooks]]\nname = "h"\ncall = "no.such:thing"', "no module 'no.such'"),
        ('[[privacy.hooks]]\nname = "h"\ncall = "json:loads"\nwindow_chars = 5', "for output hooks only"),
        ('[[privacy.hooks]]\nname = "h"\nstage = "output"\ncall = "http://x/y"', "must be a function"),
        ('[privacy.classes.secret]\nresidency = ["eu"]', "secret"),
    ],
)
def test_what_cannot_hold_is_named_before_it_runs(text: str, fault: str) -> None:
    found = declared(text)
    assert isinstance(found, list) and any(fault in one for one in found), found


def test_a_rule_that_no_place_can_meet_is_a_warning() -> None:
    found = declared('[privacy.classes.private]\nresidency = ["mars"]')
    assert isinstance(found, Loaded)
    assert [w.rule for w in found.warnings] == [
        "no pool is declared with such a region, so no request passes"
    ]


def test_an_embedded_engine_stands_where_its_machine_stands_and_so_does_a_stand_in() -> None:
    found = declared("", host='region = "eu"\noperator = "own-house"')
    assert isinstance(found, Loaded)
    settings = found.settings

    class Here:
        url, key = "http://127.0.0.1:1/v1", "k"

    class Same(dict):  # type: ignore[type-arg]
        def __missing__(self, key: object) -> object:
            from wattmill.app.declared.plan import Prices
            from wattmill.vocab.price import Price

            price = Price(id=1, book="b", model="m", rates_nusd_per_mtok=(1,) * 7)
            return Prices(price, price)

    reached = backends(settings, Same(), {name: Here() for name in settings.pools}, {})
    pools = fleet_pools(settings, reached, {}, lambda name: ADAPTERS[name].capabilities)
    assert {(p.region, p.operator) for p in pools} == {("eu", "own-house")}


def test_only_what_every_rule_allows_is_allowed() -> None:
    assert allowed_by_all([None, ("eu", "us"), ("eu", "ch")]) == {"eu"}
    assert allowed_by_all([("eu",), ("us",)]) == frozenset()
    assert allowed_by_all([None, None]) is None
