"""Reading the files about sites: types first, then what must hold between parts, then the tables they
name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wattmill.app.declared.planning_files import decoded, text_of
from wattmill.app.declared.problem import Problem
from wattmill.app.declared.settings_errors import Path as Keys
from wattmill.app.declared.settings_errors import dotted, line_of
from wattmill.site.climate.reading import places, weather
from wattmill.site.climate.spec import Weather
from wattmill.site.conversion.presets import chains
from wattmill.site.interconnect.media import media
from wattmill.site.interconnect.spec import Question
from wattmill.site.published.spec import Points
from wattmill.site.regional.spec import Comparison
from wattmill.site.yearly.series import Zone, zones
from wattmill.site.yearly.spec import Site

_Finding = tuple[Keys, str, str, "str | None"]


class Standing(NamedTuple):
    """A site whose file holds together, with its year of weather, and of prices and carbon."""

    site: Site
    weather: Weather
    zone: Zone | None


def load_site(path: Path) -> Standing | list[Problem]:
    """Read the file of a site, or say everything that is wrong with it. Tables are meant from its folder."""
    text = text_of(path)
    if isinstance(text, list):
        return text
    site = decoded(text, Site, file=str(path))
    if isinstance(site, list):
        return site
    return standing(site, text, file=str(path), folder=path.resolve().parent)


def load_points(path: Path) -> tuple[Points, dict[str, Weather]] | list[Problem]:
    """Read a file of published PUE figures with the weather it points to, or say what is wrong with it."""
    text = text_of(path)
    if isinstance(text, list):
        return text
    points = decoded(text, Points, file=str(path))
    if isinstance(points, list):
        return points
    found: list[_Finding] = [
        (("points", name, "design"), "no such design", f"Known: {', '.join(points.designs)}", f'"{p.design}"')
        for name, p in points.points.items()
        if p.design not in points.designs
    ]
    found += [
        (("designs", name, "chain"), "no such chain", f"Known: {', '.join(sorted(chains()))}", f'"{d.chain}"')
        for name, d in points.designs.items()
        if d.chain not in chains()
    ]
    found += [
        (("points", name), "`low` is above `high`", "Correct one of them", None)
        for name, p in points.points.items()
        if p.low > p.high
    ]
    at = path.resolve().parent / points.weather
    years: dict[str, Weather] = {}
    try:
        years = {name: weather(at, name) for name in places(at)}
    except (OSError, ValueError, LookupError) as error:
        way_out = "Paths are meant from the file's folder"
        found.append((("weather",), f"cannot be read: {error}", way_out, f'"{points.weather}"'))
    return _problems(found, text, str(path)) or (points, years)


class Asked(NamedTuple):
    """A question about optics, with the site that carries it."""

    question: Question
    standing: Standing


def load_question(path: Path) -> Asked | list[Problem]:
    """Read a question about optics and the site that it names, or say what is wrong with either."""
    text = text_of(path)
    if isinstance(text, list):
        return text
    question = decoded(text, Question, file=str(path))
    if isinstance(question, list):
        return question
    known = {name for name, medium in media().items() if medium.kind == "optics"}
    found: list[_Finding] = [
        (("optics",), f"no optics {name!r}", f"Known: {', '.join(sorted(known))}", f'"{name}"')
        for name in question.optics
        if name not in known
    ]
    if found:
        return _problems(found, text, str(path))
    stands = load_site(path.resolve().parent / question.site)
    return Asked(question, stands) if isinstance(stands, Standing) else stands


class Compared(NamedTuple):
    """A comparison, with the sites of each of its options."""

    asked: Comparison
    options: dict[str, dict[str, Standing]]


def load_comparison(path: Path) -> Compared | list[Problem]:
    """Read a comparison and every site that it names, or say everything that is wrong with any of them."""
    text = text_of(path)
    if isinstance(text, list):
        return text
    asked = decoded(text, Comparison, file=str(path))
    if isinstance(asked, list):
        return asked
    problems: list[Problem] = []
    options: dict[str, dict[str, Standing]] = {}
    for name, choice in asked.options.items():
        options[name] = {}
        for where, file in choice.sites.items():
            stands = load_site(path.resolve().parent / file)
            if not isinstance(stands, Standing):
                problems += stands
                continue
            options[name][where] = stands
            missing = _for_a_comparison(stands.site, ("options", name, "sites"), file)
            problems += _problems(missing, text, str(path))
    return problems or Compared(asked, options)


def _for_a_comparison(site: Site, at: Keys, file: str) -> list[_Finding]:
    found: list[_Finding] = []
    if site.place.latitude_deg is None or site.place.longitude_deg is None:
        way_out = "Declare place.latitude_deg and place.longitude_deg there"
        found.append((at, f"it is not known where {file} stands", way_out, None))
    if site.work.tok_per_s_full is None:
        way_out = "Declare work.tok_per_s and work.tok_per_s_full there"
        found.append((at, f"it is not known how many tokens {file} can make", way_out, None))
    return found


def standing(site: Site, text: str, *, file: str, folder: Path, at: Keys = ()) -> Standing | list[Problem]:
    """Return a site with the tables it points to; `at` is where in `text` it stands."""
    found = list(_findings(site))
    year: Weather | None = None
    zone: Zone | None = None
    try:
        year = weather(folder / site.place.weather, site.place.name)
    except LookupError as error:
        found.append((("place", "name"), str(error), "Name one of them", f'"{site.place.name}"'))
    except (OSError, ValueError) as error:
        found.append(
            (("place", "weather"), f"cannot be read: {error}", "Paths are meant from the file's folder", None)
        )
    if site.grid.series is not None and site.grid.zone is not None:
        zone = _zone(site, folder, found)
    if year is not None and zone is not None:
        found += _same_year(site, year, zone)
    if year is not None and site.solar is not None and year.sun_w_m2 is None and year.cloud is None:
        found.append((("solar",), f"the weather of {year.place} has no sun", "Take another table", None))
    if found or year is None:
        return _problems(found, text, file, at)
    return Standing(site, year, zone)


def _problems(found: list[_Finding], text: str, file: str, at: Keys = ()) -> list[Problem]:
    return [
        Problem(
            file=file,
            key=dotted((*at, *keys)),
            rule=rule,
            way_out=way_out,
            value=value,
            line=line_of(text, (*at, *keys)),
        )
        for keys, rule, way_out, value in found
    ]


def _findings(site: Site) -> Iterator[_Finding]:
    work, grid = site.work, site.grid
    if site.chain.preset not in chains():
        yield (
            ("chain", "preset"),
            "no such chain",
            f"Known: {', '.join(sorted(chains()))}",
            f'"{site.chain.preset}"',
        )
    if (work.busy is None) == (work.tok_per_s is None):
        yield (
            ("work",),
            "how busy it is, is said twice" if work.busy is not None else "it is not said how busy it is",
            "Declare either `busy` (0 to 1) or `tok_per_s`",
            None,
        )
    if work.tok_per_s is not None and work.tok_per_s_full is None:
        yield (
            ("work", "tok_per_s"),
            "what the whole of it can do is missing",
            "Declare `tok_per_s_full`",
            f"{work.tok_per_s}",
        )
    if work.day and (len(work.day) != 24 or sum(work.day) <= 0):
        yield ("work", "day"), f"has {len(work.day)} weights", "A day has 24, and some are above 0", None
    if work.deferrable and not work.deadline_h:
        yield (
            ("work", "deferrable"),
            "work that may wait has no deadline",
            "Declare `deadline_h`",
            f"{work.deferrable}",
        )
    if (grid.series is None) != (grid.zone is None):
        yield ("grid",), "`series` and `zone` belong together", "Declare both or neither", None
    if grid.tariff.real_time and grid.series is None:
        yield ("grid", "tariff", "real_time"), "there is no series of prices", "Declare `grid.series`", "true"
    if grid.tariff.real_time and grid.tariff.windows:
        yield (
            ("grid", "tariff", "windows"),
            "are not looked at where `real_time` is set",
            "Leave one of the two out",
            None,
        )
    if grid.g_per_kwh is not None and not grid.carbon_source:
        yield (
            ("grid", "g_per_kwh"),
            "its source is missing",
            "Declare `carbon_source`, with a date",
            f"{grid.g_per_kwh}",
        )
    if site.solar is not None and (site.place.latitude_deg is None or site.place.longitude_deg is None):
        yield (
            ("solar",),
            "the sun's way over the place is not known",
            "Declare place.latitude_deg and place.longitude_deg",
            None,
        )
    for part in site.parts:
        if part.needed > part.built:
            yield (
                ("parts",),
                f"of {part.name} {part.needed} are needed and {part.built} built",
                "Build more, or need fewer",
                f"{part.needed}",
            )
    if site.racks is not None and site.racks.rack.peak_kw is None and site.racks.counted == "peak":
        yield (
            ("racks", "counted"),
            "no peak was measured",
            "Declare racks.rack.peak_kw, or count the nameplate",
            '"peak"',
        )


def _zone(site: Site, folder: Path, found: list[_Finding]) -> Zone | None:
    assert site.grid.series is not None and site.grid.zone is not None
    try:
        known = zones(folder / site.grid.series)
    except (OSError, ValueError) as error:
        way_out = "Paths are meant from the file's folder"
        found.append((("grid", "series"), f"cannot be read: {error}", way_out, f'"{site.grid.series}"'))
        return None
    zone = known.get(site.grid.zone)
    if zone is None:
        way_out = f"It has {', '.join(known)}"
        found.append((("grid", "zone"), "the table has no such zone", way_out, f'"{site.grid.zone}"'))
        return None
    if site.grid.tariff.real_time and zone.usd_per_kwh is None:
        way_out = "Take another zone, or a tariff without real_time"
        found.append((("grid", "zone"), f"{zone.name} has no prices in that table", way_out, None))
    if site.grid.g_per_kwh is not None and zone.g_per_kwh is not None:
        way_out = "Leave it out, or `series` and `zone`"
        found.append((("grid", "g_per_kwh"), "the series has carbon too", way_out, f"{site.grid.g_per_kwh}"))
    return zone


def _same_year(site: Site, year: Weather, zone: Zone) -> Iterator[_Finding]:
    """A typical year's weather is that of twelve months of different years; prices know their own."""
    hours = next((len(s) for s in (zone.usd_per_kwh, zone.g_per_kwh) if s is not None), 0)
    if year.year == "typical":
        yield (
            ("grid", "series"),
            f"{year.place} has the weather of a typical year, and prices and carbon are of a real one",
            "Take the weather of the same year, or a tariff and a carbon intensity without a series",
            f'"{site.grid.series}"',
        )
    elif zone.year is not None and zone.year != year.year:
        yield (
            ("grid", "series"),
            f"is of {zone.year}, the weather of {year.year}",
            "Take the weather of the same year",
            f'"{site.grid.series}"',
        )
    elif hours != len(year.dry_bulb_c) or year.clock != "utc":
        yield (
            ("grid", "series"),
            f"has {hours} hours, the weather {len(year.dry_bulb_c)} of {year.year}",
            "Both are the same hours of one year, in UTC",
            f'"{site.grid.series}"',
        )
