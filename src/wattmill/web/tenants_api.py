"""Tenants, keys, caps and prices over HTTP: the same calls as the command line makes."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wattmill.app.declared.tenants import declared_tier
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.control_limits import Limits
from wattmill.ledger.stores.control_records import Node, NoSuch
from wattmill.vocab.budget import Period, Unit
from wattmill.vocab.caller import PRIVACY_CLASSES
from wattmill.web.bodies import answer, decoded
from wattmill.web.errors import ApiError
from wattmill.web.nodes import NODE


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scopes: absent is no restriction, an empty list allows nothing. `team` is "org/team" or its node id."""

    team: str | int
    name: str
    models: list[str] | None = None
    pools: list[str] | None = None
    endpoints: list[str] | None = None
    privacy: Literal["public", "internal", "private"] = "internal"
    expires_us: int | None = None
    cap_nusd: int | None = None
    tier: str | None = None
    requires_run: bool = False


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    grace_s: float = 0.0


class NewTenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organisation, or a team of it. An existing one gets the cap."""

    org: str
    team: str | None = None
    cap_nusd: int | None = None


class Cap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None lifts the cap."""

    cap_nusd: int | None


class NewLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One limit of a spender; None lifts it. Amounts are nano-dollars, tokens, microjoules, micrograms ..."""

    unit: Unit
    period: Period = "life"
    amount: int | None
    zone: str = "UTC"


class WriteOff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`return_idle` frees what the worker last told as idle; a limit may be passed by what it did then."""

    return_idle: bool = False


assert set(PRIVACY_CLASSES) == {"public", "internal", "private"}


def _control(request: Request) -> Control:
    control: Control = request.app.state.admin.control
    return control


def _node_id(request: Request) -> int:
    return int(request.path_params["node"])


async def list_keys(request: Request) -> Response:
    return answer({"keys": await run_in_threadpool(_control(request).keys)})


async def create_key(request: Request) -> Response:
    """The secret is in this answer only."""
    asked = await decoded(request, NewKey)
    control = _control(request)

    def create() -> Response:
        team = control.find(asked.team).id if isinstance(asked.team, str) else asked.team
        key, secret = control.create_key(
            team,
            asked.name,
            models=asked.models,
            pools=asked.pools,
            endpoints=asked.endpoints,
            privacy=asked.privacy,
            expires_us=asked.expires_us,
            cap_nusd=asked.cap_nusd,
            tier=declared_tier(control, asked.tier),
            requires_run=asked.requires_run,
        )
        return answer({"key": key, "secret": secret}, 201)

    return await run_in_threadpool(create)


async def rotate_key(request: Request) -> Response:
    grace_s = (await decoded(request, Rotation)).grace_s
    key, secret = await run_in_threadpool(_control(request).rotate_key, _node_id(request), grace_s)
    return answer({"key": key, "secret": secret})


async def revoke_key(request: Request) -> Response:
    changed = await run_in_threadpool(_control(request).revoke_key, _node_id(request))
    return answer({"revoked": True, "changed": changed})


async def list_tenants(request: Request) -> Response:
    nodes: dict[int, Node] = await run_in_threadpool(_control(request).nodes)
    return answer({"nodes": list(nodes.values())})


async def put_tenant(request: Request) -> Response:
    asked = await decoded(request, NewTenant)
    control = _control(request)

    def put() -> Response:
        if asked.team is None:
            return answer({"node": control.put_org(asked.org, asked.cap_nusd)}, 201)
        org = next((n for n in control.nodes().values() if n.kind == "org" and n.name == asked.org), None)
        if org is None:
            raise NoSuch(f"no organisation {asked.org!r}; make it first: POST /api/tenants without `team`")
        return answer({"node": control.put_team(org.id, asked.team, asked.cap_nusd)}, 201)

    return await run_in_threadpool(put)


async def list_budgets(request: Request) -> Response:
    return answer({"budgets": await run_in_threadpool(_control(request).summaries)})


async def set_budget(request: Request) -> Response:
    cap = await decoded(request, Cap)
    node, control = _node_id(request), _control(request)

    def put() -> Response:
        control.set_cap(node, cap.cap_nusd)
        return answer(control.summary(node))

    return await run_in_threadpool(put)


async def set_limit(request: Request) -> Response:
    asked = await decoded(request, NewLimit)
    node, control = _node_id(request), _control(request)

    def put() -> Response:
        Limits(control).put(node, asked.unit, asked.period, asked.amount, zone=asked.zone)
        return answer(control.summary(node))

    return await run_in_threadpool(put)


async def list_leases(request: Request) -> Response:
    return answer({"leases": await run_in_threadpool(_control(request).holders)})


async def write_off(request: Request) -> Response:
    asked = await decoded(request, WriteOff)
    control, epoch = _control(request), str(request.path_params["epoch"])

    def end() -> Response:
        return answer({"written_off": control.write_off(epoch, return_idle=asked.return_idle)})

    return await run_in_threadpool(end)


async def list_prices(request: Request) -> Response:
    prices = await run_in_threadpool(_control(request).prices)
    return answer({"prices": list(prices.values())})


async def list_places(request: Request) -> Response:
    figures = await request.app.state.admin.live.figures()
    if not figures["places"]:
        raise ApiError(409, "not_running", "no factory has run in this folder yet", "wattmill up")
    return answer({"places": figures["places"]})


TENANT_ROUTES = [
    Route("/api/keys", list_keys),
    Route("/api/keys", create_key, methods=["POST"]),
    Route(f"/api/keys/{NODE}/rotate", rotate_key, methods=["POST"]),
    Route(f"/api/keys/{NODE}", revoke_key, methods=["DELETE"]),
    Route("/api/tenants", list_tenants),
    Route("/api/tenants", put_tenant, methods=["POST"]),
    Route("/api/budgets", list_budgets),
    Route(f"/api/budgets/{NODE}", set_budget, methods=["PUT"]),
    Route(f"/api/budgets/{NODE}/limits", set_limit, methods=["PUT"]),
    Route("/api/leases", list_leases),
    Route("/api/leases/{epoch}/write-off", write_off, methods=["POST"]),
    Route("/api/prices", list_prices),
    Route("/api/places", list_places),
]
