"""What is compared: where the users are, which sites stand where, and what came out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from wattmill.site.yearly.answer import YearAnswer


class Users(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region's demand, as if it stood in one place."""

    latitude_deg: Annotated[float, Meta(ge=-90, le=90)]
    longitude_deg: Annotated[float, Meta(ge=-180, le=180)]
    tok_per_s: Annotated[float, Meta(gt=0)]


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Between users and sites: light in fibre along a way longer than the shortest, and what stands at it."""

    detour: Annotated[float, Meta(ge=1)] = 1.6  # way of the fibre over the great circle
    fixed_ms: Annotated[float, Meta(ge=0)] = 5.0  # access, routers: both ways together


class House(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a site costs beside power and accelerators. Building and plant: usd_per_mw x mw at `at_mw`, and
    with the power `exponent` of the size away from it."""

    usd_per_site_year: Annotated[float, Meta(ge=0)] = 0.0  # people, lease, network
    usd_per_mw_year: Annotated[float, Meta(ge=0)] = 0.0
    at_mw: Annotated[float, Meta(gt=0)] = 9.0
    exponent: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sites: Annotated[dict[str, str], Meta(min_length=1)]  # name -> file, meant from the folder


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    users: Annotated[dict[str, Users], Meta(min_length=1)]
    options: Annotated[dict[str, Option], Meta(min_length=1)]
    network: Network = Network()
    house: House = House()
    fullest: Annotated[float, Meta(gt=0, le=1)] = 0.95  # of what a site can do, in its busiest hour
    enough: Annotated[float, Meta(gt=0, le=1)] = 2 / 3  # of the capacity, whose availability is asked


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One region's demand at one site."""

    users: str
    site: str
    tok_per_s: float
    rtt_ms: float


class SiteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    year: YearAnswer
    house_usd: float
    nearest_limit: str  # that which is used most, with its share
    nearest_share: float


class OptionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sites: tuple[SiteAnswer, ...]
    served: tuple[Served, ...]
    unserved_tok_per_s: float  # no site had room for it
    rtt_mean_ms: float  # over tokens that are served
    rtt_worst_ms: float
    power_usd: float
    house_usd: float
    location_t: float | None
    market_t: float | None
    embodied_t: float | None
    heat_mwh: float
    heat_usd: float
    pue: float  # all sites together
    peak_mw: float  # of the meters, added
    j_per_tok: float
    usd_per_mtok: float  # power and house
    all_up: float | None  # share of time; None: a site declares no parts
    enough_up: float | None
