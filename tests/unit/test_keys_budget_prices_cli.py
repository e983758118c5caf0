"""The commands keys, budget and prices, as a user sees them; they need no running factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from wattmill.app.declared.declaration import load, stored
from wattmill.app.home import Home
from wattmill.app.identify import Keyring, read_entries
from wattmill.cli.budget import budget_app
from wattmill.cli.keys import keys_app
from wattmill.cli.prices import prices_app
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_records import Ask, Holding
from wattmill.vocab.caller import Caller
from wattmill.vocab.refusal import Refusal

APPS = {"keys": keys_app, "budget": budget_app, "prices": prices_app}


class Shell:
    def __init__(self, home: Home) -> None:
        self.home = home

    def __call__(self, *args: str, code: int = 0) -> str:
        """Run a command and return what it printed, stderr after stdout."""
        result = CliRunner().invoke(
            APPS[args[0]], args[1:], env={"WATTMILL_HOME": str(self.home.root), "COLUMNS": "200"}
        )
        assert result.exit_code == code, result.output
        return result.output

    def json(self, *args: str) -> Any:
        return msgspec.json.decode(self(*args, "--json"))


@pytest.fixture
def shell(home: Home) -> Shell:
    with Control(home.control_db) as control:
        control.put_team(control.put_org("demo", 10 * 10**9), "load")
    return Shell(home)


def test_a_factory_that_is_not_there_is_said_not_made(tmp_path: Path) -> None:
    out = Shell(Home(tmp_path / "nowhere"))("keys", "list", code=1)
    assert "no factory in" in out and "--home" in out
    assert not (tmp_path / "nowhere").exists()


def test_a_key_lives_from_create_to_revoke(shell: Shell) -> None:
    made = shell.json(
        "keys", "create", "demo/load", "ci", "--model", "m", "--cap", "0.5", "--expires-in", "90d"
    )
    assert made["key"]["full_name"] == "demo/load/ci"
    assert (made["key"]["cap_nusd"], made["key"]["models"]) == (500_000_000, ["m"])
    assert made["key"]["expires_us"] - made["key"]["created_us"] == pytest.approx(90 * 86_400e6, abs=5e6)
    assert "demo/load/ci" in (listed := shell("keys", "list")) and made["secret"] not in listed
    rotated = shell("keys", "rotate", "demo/load/ci", "--grace", "60")
    assert "Shown this once" in rotated and "secret  wm-" in rotated
    assert shell("keys", "revoke", "demo/load/ci") == "key demo/load/ci is revoked\n"
    assert shell("keys", "revoke", "demo/load/ci") == "key demo/load/ci was already revoked\n"
    assert "demo/load/ci" not in shell("keys", "list")
    assert "revoked" in shell("keys", "list", "--all")


def test_what_a_command_changes_is_what_a_keyring_loads_next(shell: Shell) -> None:
    secret = shell.json("keys", "create", "demo/load", "ci")["secret"]
    with Control(shell.home.control_db) as control:
        keyring = Keyring(read_entries(control))
        generation = control.generation()
        assert isinstance(keyring.identify(f"Bearer {secret}".encode(), 0), Caller)
        shell("keys", "revoke", secret)  # a pasted secret names its key
        assert control.generation() > generation
        keyring.replace(read_entries(control))
        assert isinstance(keyring.identify(f"Bearer {secret}".encode(), 0), Refusal)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("keys", "create", "demo/nope", "x"), "no 'demo/nope' in the budget tree"),
        (("keys", "create", "demo/load", "x", "--expires-in", "soon"), "such as 90d, 12h, 30m or 45s"),
        (("keys", "create", "demo/load", "x", "--expires-in", "9999999999999d"), "before the year 10000"),
        (("keys", "create", "demo/load", "x", "--cap", "much"), "cap is 'much', must be dollars"),
        (("keys", "revoke", "wm-nothing"), "no such key"),
        (("budget", "set", "demo", "-3"), ""),
        (("budget", "set", "demo", "1e999"), "budget is"),
        (("budget", "set", "demo", "5 cents"), "such as '0.05 USD'"),
        (("keys", "create", "demo/load", "x", "--cap", "5 USD/day"), "must be dollars such as 25"),
        (("keys", "create", "demo", "x"), "'demo' is an organisation; a key is made under a team"),
        (("keys", "rotate", "demo/load/x", "--grace", "soon"), "--grace must be a time such as 90s"),
        (("budget", "show", "dem"), "there is: demo"),
        (("budget", "show", "demo/laod"), "there is: demo/load"),
        (("prices", "show", "a", "b"), "no price of 'b' in book 'a'"),
        (("prices", "import", "--provider", "opena"), "must be one of: anthropic"),
        (
            ("prices", "import", "--provider", "openai", "--tiers", "x"),
            "must be one of: refuse, base, highest",
        ),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    shell: Shell, args: tuple[str, ...], message: str
) -> None:
    before = shell("budget", "show"), shell("keys", "list", "--all")
    out = shell(*args, code=2 if message == "" else 1)
    assert message in out and "Traceback" not in out
    assert (shell("budget", "show"), shell("keys", "list", "--all")) == before


def test_budgets_are_shown_as_a_tree_with_units(shell: Shell) -> None:
    shell("keys", "create", "demo/load", "ci")
    shown = shell("budget", "set", "demo/load", "2.5")
    assert "cap USD" in shown and "2.500000" in shown
    budgets = shell.json("budget", "show")
    assert [(b["name"], b["cap_nusd"]) for b in budgets] == [
        ("demo", 10 * 10**9),
        ("demo/load", 2_500_000_000),
        ("demo/load/ci", None),
    ]
    shell("budget", "set", "demo/load", "none")
    assert shell.json("budget", "show", "demo/load")[0]["cap_nusd"] is None
    assert "Nothing is left under this limit" in shell("budget", "set", "demo", "0")


def test_limits_of_any_unit_and_period_are_set_listed_and_lifted(shell: Shell) -> None:
    shown = shell("budget", "set", "demo/load", "60 requests/minute")
    assert "60 requests" in shown and "minute" in shown
    shell("budget", "set", "demo/load", "5 USD/month", "--zone", "Europe/Berlin")
    shell("budget", "set", "demo", "500 J")
    listed = shell("budget", "list")
    for words in ("60 requests", "5.000000 USD", "month Europe/Berlin", "500 J", "10.000000 USD", "never"):
        assert words in listed, words
    found = {b["name"]: b["limits"] for b in shell.json("budget", "list")}
    assert [(s["unit"], s["period"], s["amount"], s["left"]) for s in found["demo/load"]] == [
        ("requests", "minute", 60, 60),
        ("nusd", "month", 5 * 10**9, 5 * 10**9),
    ]
    shell("budget", "set", "demo/load", "none requests/minute")
    assert [s["unit"] for s in shell.json("budget", "show", "demo/load")[0]["limits"]] == ["nusd"]


def test_a_lost_workers_leases_are_listed_and_written_off(shell: Shell, home: Home) -> None:
    with Control(home.control_db, wall_us=lambda: 1_700_000_000_000_000) as control:
        node = control.find("demo").id
        control.renew("aaaaaaaaaaaa", 30_000_000, "rack-7 worker 0 pid 4711")
        control.lease("aaaaaaaaaaaa", [Ask(node, 10**9, 10**9, 0)])
        control.report("aaaaaaaaaaaa", {node: Holding(4 * 10**8, 10**9, 5 * 10**8)})
    listed = shell("budget", "leases")
    assert "aaaaaaaaaaaa" in listed and "rack-7 worker 0 pid 4711" in listed
    told = shell("budget", "write-off", "aaaaaaaaaaaa", "--return-idle")
    assert "0.500000 USD" in told
    assert shell.json("budget", "show", "demo")[0]["used_nusd"] == 5 * 10**8
    assert "was closed" in shell("budget", "write-off", "aaaaaaaaaaaa", code=1)
    assert "no epoch" in shell("budget", "write-off", "bbbbbbbbbbbb", code=1)


def test_prices_are_imported_listed_and_shown_with_their_source(shell: Shell) -> None:
    out = shell(
        "prices",
        "import",
        "--provider",
        "openai",
        "--model",
        "gpt-4o-mini",
        "--model",
        "o3",
        "--model",
        "gpt-5.4",
    )
    assert "note: o3: variant not used: service_tier=flex" in out
    assert "left out: gpt-5.4: price depends on the prompt's length" in out
    assert "2 models in book 'openai', 3 new versions, 1 models left out" in out
    assert "0 new versions" in shell("prices", "import", "--provider", "openai", "--model", "o3")
    listed = {price["model"]: price for price in shell.json("prices", "list")}
    assert listed["o3"]["rates_nusd_per_mtok"]["input"] == 2_000_000_000
    history = shell("prices", "show", "openai", "o3")
    assert "since ever" in history and "2025-06-10 00:00:00" in history and "genai-prices" in history


def test_an_import_that_finds_nothing_fails(shell: Shell) -> None:
    assert "not in the data" in shell("prices", "import", "--provider", "openai", "--model", "nope", code=1)


@pytest.mark.parametrize(
    ("typed", "unit", "period", "amount"),
    [
        (["5"], "nusd", "life", 5 * 10**9),
        (["$0.05"], "nusd", "life", 5 * 10**7),
        (["0.05$"], "nusd", "life", 5 * 10**7),
        (["5", "USD/day"], "nusd", "day", 5 * 10**9),
        (["5 usd per day"], "nusd", "day", 5 * 10**9),
        (["60", "requests", "per", "minute"], "requests", "minute", 60),
        (["20_000 tokens/hour"], "total_tok", "hour", 20_000),
    ],
)
def test_a_limit_may_be_typed_as_it_is_shown_and_without_quotes(
    shell: Shell, typed: list[str], unit: str, period: str, amount: int
) -> None:
    told = shell.json("budget", "set", "demo/load", *typed)
    if (unit, period) == ("nusd", "life"):
        assert told["cap_nusd"] == amount
    else:
        assert [(s["unit"], s["period"], s["amount"]) for s in told["limits"]] == [(unit, period, amount)]


def test_an_amount_that_six_digits_would_round_is_shown_whole(shell: Shell) -> None:
    assert "0.000004691" in shell("budget", "set", "demo/load", "0.000004691")
    assert " 0.250000 " in shell("budget", "set", "demo/load", "0.25")


def test_a_scope_that_nothing_serves_is_noted_beside_the_key(shell: Shell) -> None:
    loaded = load(None, {})
    assert not isinstance(loaded, list)
    with Control(shell.home.control_db) as control:
        control.put_config(stored(loaded.settings), 1)
    made = shell("keys", "create", "demo/load", "ci", "--model", "smollm2-135M", "--pool", "edge")
    assert "note: no model 'smollm2-135M' is declared (gpt-4o-mini, smollm2-135m are)" in made
    assert "no pool" not in made and "secret  wm-" in made
