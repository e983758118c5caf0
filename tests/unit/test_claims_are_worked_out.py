"""`wattmill check-claim`: a printed result follows from the printed inputs, or is flagged with a way out."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from wattmill.app.declared.planning_files import checked_claims
from wattmill.cli.check_claim import check_claim_app
from wattmill.twin.planning.claims import Claim, checked
from wattmill.twin.planning.quantity import quantity, unit_text
from wattmill.twin.planning.relation import Relation

RUN = CliRunner()


def test_the_shipped_claims_agree_except_for_the_two_known_ones() -> None:
    ran = RUN.invoke(check_claim_app, ["--example", "--json"])
    verdicts = {c["name"]: c for c in json.loads(ran.stdout)}
    assert ran.exit_code == 1
    wrong = [name for name, c in verdicts.items() if c["verdict"] == "does not agree"]
    assert wrong == ["generations", "llama3-faulty-gpu"]
    assert f"{verdicts['generations']['computed']:.1f}" == "31.8"
    assert verdicts["generations"]["off_by"] == pytest.approx(11.0)
    assert "`before` were 2 Mtok/s" in verdicts["generations"]["way_out"]
    assert f"{verdicts['llama3-faulty-gpu']['computed']:.1f}" == "35.3"


def test_what_is_printed_for_people_names_source_and_way_out() -> None:
    ran = RUN.invoke(check_claim_app, ["--example"])
    joules = next(line for line in ran.stdout.splitlines() if line.split()[:1] == ["b200-joules"])
    assert "0.357 J/tok" in joules and joules.strip().endswith(
        "input + output tokens, all-in provisioned power"
    )
    assert "faulty / all = 35.3222 %, not 30.1 %" in ran.stdout
    assert "2 do not agree with themselves" in ran.stdout


def claim(relation: str, claimed: str, **quantities: str | int | float) -> Claim:
    return Claim(says="s", source="s", relation=relation, claimed=claimed, quantities=quantities)


def test_a_result_may_differ_by_what_its_rounded_inputs_allow() -> None:
    assert checked("c", claim("a / b", "2.4 x", a="0.24 Wh", b="0.10 Wh")).verdict == "agrees"
    assert checked("c", claim("a / b", "2.5 x", a="0.24 Wh", b="0.10 Wh")).verdict == "agrees within rounding"
    assert checked("c", claim("a / b", "2.5 x", a="=0.24 Wh", b="=0.10 Wh")).verdict == "does not agree"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (claim("a + b", "1 kW", a="1 kW", b="1 kWh"), "only like can be added"),
        (claim("a / b", "1 kW", a="1 kWh", b="1 day"), None),
        (claim("a / b", "1 kWh", a="1 kWh", b="1 day"), "claimed '1 kWh' is in J"),
        (claim("a", "1 furlong", a="1 kW"), "unit 'furlong'"),
        (claim("a * c", "1 W", a="1 kW"), "names 'c'"),
        (claim("a", "1 W", a="1 kW", b="2 kW"), "'b' is not in the relation"),
        (claim("a + __import__('os').getpid()", "1 W", a="1 W"), "may hold"),
        (claim("a / (b - b)", "1 W", a="1 W", b="=2"), "divides by zero"),
    ],
)
def test_what_cannot_be_worked_out_says_why(wrong: Claim, words: str | None) -> None:
    if words is None:
        assert checked("c", wrong).verdict == "does not agree"
        return
    with pytest.raises(ValueError) as caught:
        checked("c", wrong)
    assert words in str(caught.value)


def test_a_file_says_its_faults_with_line_key_and_nearest_name() -> None:
    text = (
        '[claims.x]\nsays = "a"\nsource = "b"\nrelation = "a"\nclaimd = "1 W"\nquantities = { a = "1 W" }\n'
    )
    problems = [str(p) for p in checked_claims(text, file="c.toml")]
    assert any(
        "c.toml:5" in p and "claims.x.claimd" in p and "Did you mean `claimed`?" in p for p in problems
    )


def test_units_of_the_trade_are_read_as_people_write_them() -> None:
    assert quantity("0.232 USD/Mtok").value == Fraction(232, 1_000_000_000)
    assert quantity("1 kWh").value == 3_600_000
    assert quantity("150 billion USD/year").value == Fraction(150_000_000_000, 31_536_000)
    assert unit_text(quantity("1 USD/s/MW").dimension) == "USD/J"
    assert quantity("35.3 %").rounding == Fraction(5, 10_000)


@given(
    a=st.decimals(min_value=1, max_value=1000, places=2),
    b=st.decimals(min_value=1, max_value=1000, places=2),
    da=st.fractions(min_value=Fraction(-1, 200), max_value=Fraction(1, 200)),
    db=st.fractions(min_value=Fraction(-1, 200), max_value=Fraction(1, 200)),
)
def test_whatever_the_unrounded_inputs_were_the_limits_hold_their_quotient(
    a: object, b: object, da: Fraction, db: Fraction
) -> None:
    bounds = Relation("a / b").bounds({"a": quantity(f"{a} W"), "b": quantity(f"{b} W")})
    assert bounds.low <= (Fraction(str(a)) + da) / (Fraction(str(b)) + db) <= bounds.high
