import msgspec
import pytest

from wattmill.distribution.placing import _audio_without_price
from wattmill.distribution.spec import BackendModel
from wattmill.distribution.wire import Draft, parse
from wattmill.vocab.price import Price
from wattmill.vocab.refusal import Refusal

RATES = (1, 1, 1, 1, 1, 1, 1)


def model(charge: tuple[int | None, ...], cost: tuple[int | None, ...] = RATES) -> BackendModel:
    prices = [
        Price(id=n, book=f"book {n}", model="m", rates_nusd_per_mtok=r) for n, r in enumerate((cost, charge))
    ]
    return BackendModel(name="m", upstream="m", cost=prices[0], charge=prices[1])


@pytest.mark.parametrize("missing", [3, 6])
@pytest.mark.parametrize("leg", ["charge", "cost"])
def test_audio_goes_nowhere_where_either_leg_has_no_rate_for_it(missing: int, leg: str) -> None:
    holed = tuple(None if n == missing else rate for n, rate in enumerate(RATES))
    refusal = _audio_without_price("edge", model(holed) if leg == "charge" else model(RATES, holed))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unpriced"
    assert "book" in refusal.message and "edge" in refusal.message


def test_audio_with_rates_in_both_legs_passes() -> None:
    assert _audio_without_price("edge", model(RATES)) is None


def test_an_escaped_letter_does_not_hide_that_audio_is_asked_for() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"modalities":["aud\\u0069o"]}'
    draft = parse("chat", body)
    assert isinstance(draft, Draft)
    assert "audio" in draft.needs


def test_modalities_that_are_no_list_are_refused_with_their_value() -> None:
    body = msgspec.json.encode({"model": "m", "messages": [], "modalities": 7})
    refusal = parse("chat", body)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == ("bad_value", "modalities")
