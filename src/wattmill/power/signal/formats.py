"""Power events as others write them, read into our own and answered in theirs.

Three shapes are known by their look:

- wattmill's own: `{"reduce": 0.25, "notice_s": 60, "duration_s": 180}` or `{"limit_w": 40000, ...}`.
- DSX Flex (NVIDIA, schema 1.7.0, CloudEvents 1.0.2): `grid.loadtarget.set.v1`, absolute limits over
  intervals. Signed data (a JWS) is refused: its key would have to be trusted first.
- OpenADR 3 (3.0 and 3.1): an event with intervals and payloads of the types IMPORT_CAPACITY_LIMIT (an
  absolute limit; kW unless its descriptor names W or MW) and SIMPLE (levels 0 to 3; what they mean is
  declared).

Everything that a sender gets wrong is said with the field, the rule, the value and the way out.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, TypeGuard

import msgspec

from wattmill.power.signal.spec import PowerEvent

DSX_TARGET = "grid.loadtarget.set.v1"
DSX_STATUS = "grid.powerstate.status.v1"
_W_PER = {"watt": 1.0, "kilowatt": 1e3, "megawatt": 1e6}
_ADR_W_PER = {"W": 1.0, "KW": 1e3, "MW": 1e6}
SIMPLE_KEEP = {0: None, 1: 0.9, 2: 0.75, 3: 0.5}
"""What OpenADR's SIMPLE levels mean here, as shares of the baseline. Ours: the standard does not say."""

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_FOREVER = "P9999Y"
_NOW_STARTS = ("0000-00-00", "0001-01-01")
_MOST_EVENTS = 100


class BadEvent(ValueError):
    """A message that cannot be taken, and why. Its text is for its sender."""


def read_events(text: bytes, *, now_s: float, id: str) -> list[PowerEvent]:
    """Return the events of a message in any of the known shapes.

    Args:
        text: JSON.
        now_s: wall clock, Unix seconds: the moment of notice.
        id: for events that bring no id of their own.

    Raises:
        BadEvent: it is none of the shapes, or breaks its rules.
    """
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadEvent(f"the message must be JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadEvent(f"the message must be one JSON object, got {type(found).__name__}")
    if "specversion" in found:
        events = _dsx(found, now_s)
    elif "intervals" in found or found.get("objectType") == "EVENT" or "programID" in found:
        events = _openadr(found, now_s, id)
    else:
        events = [_own(found, now_s, id)]
    if not events:
        raise BadEvent("the message names no interval that lies in the future")
    ids = [event.id for event in events]
    twice = next((id for id in ids if ids.count(id) > 1), None)
    if twice is not None:
        raise BadEvent(f"two intervals have the id {twice!r}: each needs one of its own")
    return events


def _part(found: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return an object inside of another one, empty where there is none."""
    part = found.get(name)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise BadEvent(f"{where} must be an object, got {part!r:.80}")
    return part


# ---- wattmill's own


class _Own(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str | None = None
    reduce: float | None = None  # share of the baseline to save, 0..1
    limit_w: float | None = None
    notice_s: float = 0.0
    lift: bool = False  # nothing holds any longer over this stretch
    duration_s: float
    best_effort: bool = True


def _own(found: dict[str, Any], now_s: float, id: str) -> PowerEvent:
    try:
        own = msgspec.convert(found, _Own, strict=True)
    except msgspec.ValidationError as error:
        raise BadEvent(
            f"{error}. An event is {{reduce | limit_w, duration_s, notice_s?}}, a CloudEvent of DSX Flex or "
            "an OpenADR 3 event"
        ) from None
    if (own.reduce is not None) + (own.limit_w is not None) + own.lift != 1:
        raise BadEvent("an event names one of reduce (0.25 for 25 % less), limit_w and lift")
    if own.reduce is not None and not 0.0 < own.reduce <= 1.0:
        raise BadEvent(f"reduce must be above 0 and at most 1, got {own.reduce}")
    if own.duration_s <= 0.0 or own.notice_s < 0.0:
        raise BadEvent(
            f"duration_s must be above 0 and notice_s at least 0, got {own.duration_s} and {own.notice_s}"
        )
    start_s = now_s + own.notice_s
    return _event(
        id=own.id or id,
        told_s=now_s,
        start_s=start_s,
        end_s=start_s + own.duration_s,
        limit_w=own.limit_w,
        keep=None if own.reduce is None else 1.0 - own.reduce,
        best_effort=own.best_effort,
        source="wattmill",
    )


def _event(**fields: Any) -> PowerEvent:
    try:
        return PowerEvent(**fields)
    except ValueError as error:
        raise BadEvent(str(error)) from None


# ---- DSX Flex


def _dsx(found: dict[str, Any], now_s: float) -> list[PowerEvent]:
    if found.get("type") != DSX_TARGET:
        raise BadEvent(f"type must be {DSX_TARGET!r}, got {found.get('type')!r}: nothing else asks for power")
    if found["specversion"] != "1.0.2":
        raise BadEvent(f"specversion must be '1.0.2', got {found['specversion']!r}")
    data = found.get("data")
    if isinstance(data, str):
        raise BadEvent(
            "data is signed (a JWS). wattmill holds no keys of senders: have your bus check the signature "
            "and hand the plain object on"
        )
    targets = data.get("targets") if isinstance(data, dict) else None
    if not isinstance(targets, list) or not 1 <= len(targets) <= _MOST_EVENTS:
        raise BadEvent(f"data.targets must be a list of 1 to {_MOST_EVENTS} load targets")
    name = str(found.get("id", ""))
    if not name:
        raise BadEvent("id is missing: a UUID of this message")
    correlation = found.get("correlationid")
    events = []
    for number, target in enumerate(targets):
        where = f"data.targets[{number}]"
        if not isinstance(target, dict):
            raise BadEvent(f"{where} must be an object")
        interval = _part(target, "interval", f"{where}.interval")
        start_s = _instant(interval.get("start_time"), f"{where}.interval.start_time", default=now_s)
        end_s = _instant(interval.get("end_time"), f"{where}.interval.end_time", default=None)
        if end_s is not None and end_s <= now_s:
            continue
        constraint = target.get("load_constraint")
        events.append(
            _event(
                id=f"{name}.{number}",
                told_s=now_s,
                start_s=max(start_s or now_s, now_s),
                end_s=end_s,
                limit_w=None if constraint is None else _dsx_watts(constraint, f"{where}.load_constraint"),
                best_effort=bool(_part(target, "strategy", f"{where}.strategy").get("best_effort", True)),
                source="dsx-flex",
                correlation=None if correlation is None else str(correlation),
            )
        )
    return events


def _dsx_watts(found: Any, where: str) -> float:
    unit = found.get("unit") if isinstance(found, dict) else None
    value = found.get("value") if isinstance(found, dict) else None
    if not isinstance(unit, str) or unit not in _W_PER or not _is_number(value):
        raise BadEvent(f"{where} must be {{value: number, unit: {' | '.join(_W_PER)}}}, got {found!r:.80}")
    return float(value) * _W_PER[unit]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def dsx_status(
    *, feed: str, now_s: float, event: PowerEvent | None, phase: str, power_w: float, limit_w: float | None,
    least_w: float, most_w: float, message_id: str, source: str, traceparent: str,
) -> dict[str, Any]:  # fmt: skip
    """Return the power state as DSX Flex's `grid.powerstate.status.v1` tells it: one feed, plain data."""
    happening = {"ramp": "start_ramp_down", "active": "periodic", "recovering": "start_ramp_up"}
    state: dict[str, Any] = {
        "metadata": {
            "power_minimum": _watts(least_w),
            "power_maximum": _watts(most_w),
            "default_constraint": _watts(most_w),
        },
        "targets": [],
        "calculated_load": _watts(power_w),
        "in_flight": phase in ("ramp", "active", "recovering"),
        "event": happening.get(phase, "target_set" if phase == "noticed" else "periodic"),
        "power_event_start_time": None if event is None else _iso(event.start_s),
        "compliant": limit_w is None or phase != "active" or power_w <= limit_w,
    }
    if event is not None and limit_w is not None:
        interval = {"start_time": _iso(event.start_s)}
        if event.end_s is not None:
            interval["end_time"] = _iso(event.end_s)
        state["targets"] = [
            {
                "active": phase == "active",
                "load_constraint": _watts(limit_w),
                "interval": interval,
                "strategy": {"best_effort": event.best_effort},
                "correlation_id": event.correlation or event.id,
            }
        ]
    return {
        "specversion": "1.0.2",
        "id": message_id,
        "source": source,
        "type": DSX_STATUS,
        "time": _iso(now_s),
        "datacontenttype": "application/json",
        "subject": "powerstate",
        "traceparent": traceparent,
        "data": {"snapshot_time": _iso(now_s), "feeds": {feed: state}},
    }


def _watts(value: float) -> dict[str, Any]:
    return {"value": round(value, 3), "unit": "watt"}


# ---- OpenADR 3


def _openadr(found: dict[str, Any], now_s: float, id: str) -> list[PowerEvent]:
    intervals = found.get("intervals")
    if not isinstance(intervals, list) or not 1 <= len(intervals) <= _MOST_EVENTS:
        raise BadEvent(f"intervals must be a list of 1 to {_MOST_EVENTS}")
    described = found.get("payloadDescriptors") or []
    if not isinstance(described, list):
        raise BadEvent(f"payloadDescriptors must be a list, got {described!r:.80}")
    units = {
        str(one.get("payloadType")): str(one.get("units"))
        for one in described
        if isinstance(one, dict) and one.get("units") is not None
    }
    whole = _part(found, "intervalPeriod", "intervalPeriod")
    at_s = _instant(whole.get("start"), "intervalPeriod.start", default=now_s)
    name = str(found.get("id") or found.get("eventName") or id)
    events: list[PowerEvent] = []
    for number, interval in enumerate(intervals):
        where = f"intervals[{number}]"
        if not isinstance(interval, dict):
            raise BadEvent(f"{where} must be an object")
        period = _part(interval, "intervalPeriod", f"{where}.intervalPeriod")
        start_s = _instant(period.get("start"), f"{where}.intervalPeriod.start", default=at_s)
        assert start_s is not None
        lasts_s = _duration(period.get("duration", whole.get("duration")), f"{where}: duration")
        end_s = None if lasts_s is None else start_s + lasts_s
        at_s = end_s if end_s is not None else start_s  # the next one follows, unless it says when it starts
        asked = _asked(interval.get("payloads"), units, where)
        if asked is None or (end_s is not None and end_s <= now_s):
            continue
        limit_w, keep = asked
        events.append(
            _event(
                id=f"{name}.{interval.get('id', number)}",
                told_s=now_s,
                start_s=max(start_s, now_s),
                end_s=end_s,
                limit_w=limit_w,
                keep=keep,
                source="openadr3",
                correlation=name,
            )
        )
    return events


def _asked(payloads: Any, units: dict[str, str], where: str) -> tuple[float | None, float | None] | None:
    """Return (limit_w, keep) of an interval; None if it asks for nothing that concerns us."""
    if not isinstance(payloads, list):
        raise BadEvent(f"{where}.payloads must be a list")
    for payload in payloads:
        kind = payload.get("type") if isinstance(payload, dict) else None
        values = payload.get("values") if isinstance(payload, dict) else None
        if kind not in ("IMPORT_CAPACITY_LIMIT", "SIMPLE"):
            continue
        if not isinstance(values, list) or not values or not _is_number(values[0]):
            raise BadEvent(f"{where}: values of {kind} must begin with a number, got {values!r:.80}")
        if kind == "SIMPLE":
            if values[0] not in SIMPLE_KEEP:
                raise BadEvent(f"{where}: SIMPLE must be 0, 1, 2 or 3, got {values[0]!r}")
            return None, SIMPLE_KEEP[int(values[0])]
        unit = units.get(kind, "KW")
        if unit not in _ADR_W_PER:
            raise BadEvent(f"units of {kind} must be {', '.join(_ADR_W_PER)}, got {unit!r}")
        return float(values[0]) * _ADR_W_PER[unit], None
    return None


# ---- time


def _instant(value: Any, where: str, *, default: float | None) -> float | None:
    if value is None or (isinstance(value, str) and value.startswith(_NOW_STARTS)):
        return default
    try:
        moment = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BadEvent(
            f"{where} must be a time of ISO 8601 such as 2026-11-28T17:00:00Z, got {value!r}"
        ) from None
    if moment.tzinfo is None:
        raise BadEvent(f"{where} must name its time zone (end with Z or +01:00), got {value!r}")
    return moment.timestamp()


def _duration(value: Any, where: str) -> float | None:
    """Return seconds, None for without end. Years and months are refused: they have no length."""
    if value is None or value == _FOREVER:
        return None
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = 0.0
    if found is not None:
        days, hours, minutes, rest = (float(part or 0) for part in found.groups())
        seconds = days * 86_400 + hours * 3_600 + minutes * 60 + rest
    if seconds <= 0.0:
        raise BadEvent(
            f"{where} must be a duration of ISO 8601 in days and below, such as PT3H, got {value!r}"
        )
    return seconds


def _iso(at_s: float) -> str:
    moment = dt.datetime.fromtimestamp(at_s, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
