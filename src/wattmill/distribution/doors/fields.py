"""Reading a body field by field: what is wrong is raised, with the field, the rule and the value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import msgspec
from msgspec import Raw

from wattmill.vocab.refusal import Refusal
from wattmill.vocab.request import Body

encode = msgspec.json.Encoder().encode


class Unservable(Exception):
    """Leaves a translation; `refusal` is what the client is told. Never leaves `doors`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def wrong(param: str, rule: str, value: object) -> Unservable:
    """Say what shape a value must have."""
    text = bytes(value).decode("utf-8", "replace") if isinstance(value, Raw) else _shown(value)
    shown = text if len(text) <= 80 else text[:79] + "…"
    return Unservable(
        Refusal(code="bad_value", message=f"field {param!r} must be {rule}, got {shown}", param=param)
    )


def bad(param: str, rule: str, value: object) -> NoReturn:
    """Refuse a value that has the wrong shape."""
    raise wrong(param, rule, value)


def refuse(param: str, why: str) -> NoReturn:
    """Refuse what this door understands and does not offer."""
    raise Unservable(Refusal(code="field_refused", message=f"{param!r} {why}", param=param))


def beyond(param: str, why: str) -> Unservable:
    """Say why no place here could be sent this."""
    return Unservable(Refusal(code="no_capability", message=f"{param!r} {why}", param=param))


def unable(param: str, why: str) -> NoReturn:
    """Refuse what no place here could be sent."""
    raise beyond(param, why)


def decoded(raw: Raw, param: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise Unservable(
            Refusal(code="bad_value", message=f"field {param!r} cannot be read: {error}", param=param)
        ) from None


def given(body: Body, name: str) -> Raw | None:
    """Return the value of a field, None where it is absent or null."""
    raw = body.get(name)
    return None if raw is None or bytes(raw) == b"null" else raw


def text(value: object, param: str) -> str:
    if not isinstance(value, str):
        bad(param, "a string", value)
    return value


def obj(value: object, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        bad(param, "an object", value)
    return value


def array(value: object, param: str) -> list[Any]:
    if not isinstance(value, list):
        bad(param, "an array", value)
    return value


def flag(body: Body, name: str, default: bool) -> bool:
    raw = given(body, name)
    if raw is None:
        return default
    if bytes(raw) not in (b"true", b"false"):
        bad(name, "true or false", raw)
    return bytes(raw) == b"true"


def known(body: Mapping[str, object], names: Collection[str], *, at: str = "") -> None:
    """Refuse a field that the protocol as it is served here does not have: it would be dropped unseen."""
    for name in body:
        if name not in names:
            param = f"{at}.{name}" if at else name
            raise Unservable(
                Refusal(
                    code="bad_value",
                    message=f"field {param!r} is not known at this door; leave it out",
                    param=param[:128],
                )
            )


def _shown(value: object) -> str:
    try:
        return encode(value).decode()
    except (TypeError, ValueError):
        return str(value)
