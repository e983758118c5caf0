"""The board in a real browser: the API's figures, live, by keyboard, without serious findings of axe."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_rig import AdminRig, serving
from playwright.sync_api import Browser, Page, expect, sync_playwright

from board_factory import BoardFactory
from twin_results import fill

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
]
AXE = "axe-core@4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
ROOMS = ("places", "power", "efficiency", "tenants", "decisions", "ledger", "twin")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("board"))
    fill(factory.home.root, factory.now_us)
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


class Watched:
    """A page and what went wrong on it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(
            viewport=options.pop("viewport", {"width": 1440, "height": 900}), **options
        )
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.faults.append(m.text))
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("request", lambda r: "127.0.0.1" in r.url or self.foreign.append(r.url))

    def open(self, rig: AdminRig, hash: str = "room=places") -> Page:
        self.page.goto(f"{rig.url}/#token={rig.factory.token}&{hash}")
        self.page.wait_for_selector(".tower .bar[data-id=power] .part")
        return self.page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    made = Watched(browser)
    yield made
    made.context.close()
    assert not made.faults and not made.foreign


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_the_board_opens_and_the_token_leaves_the_address(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    assert rig.factory.token not in page.url
    assert plain(page.inner_text(".health")).startswith("All promises kept. Three places up")
    assert page.locator(".floor").count() == 8
    assert "stand-in for a provider" in page.inner_text("main")
    assert rig.factory.token not in page.content()


def test_the_figures_on_the_page_are_the_figures_of_the_api(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    shown = {
        plain(li.locator(".label").inner_text()): plain(li.locator(".fig").inner_text())
        for li in page.locator(".numbers li").all()
    }
    told = page.evaluate("fetch('/api/figures').then((r) => r.json())")
    slow = {
        item["label"]: item["figure"]["text"] for item in told["line"] if item["id"] not in ("tok_per_s",)
    }
    assert {label: shown[label] for label in slow} == slow
    money = {s["name"]: s["today"]["text"] for s in told["spenders"]}
    page.goto(f"{rig.url}/#room=tenants")
    page.wait_for_selector("text=A cap is hard")
    for row in page.locator("[aria-label='Spend by tenant'] tbody tr").all():
        cells = [plain(c) for c in row.locator("td").all_inner_texts()]
        assert cells[1] == money[cells[0]]


def test_limits_beside_caps_are_on_the_board_in_their_own_words(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.goto(f"{rig.url}/#room=tenants")
    table = page.locator("[aria-label='Limits beside caps']")
    expect(table).to_contain_text("60 requests per minute")
    told = page.evaluate("fetch('/api/figures').then((r) => r.json())")["limits"]
    shown = [
        [plain(c) for c in row.locator("td").all_inner_texts()] for row in table.locator("tbody tr").all()
    ]
    assert [row[:4] for row in shown] == [
        [one[name] for name in ("name", "at_most", "used", "left")] for one in told
    ]
    assert {row[1] for row in shown} == {"60 requests per minute", "250000 tokens per day"}


def test_what_happens_shows_within_seconds(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    factory = rig.factory
    factory.write_state(host_w=57.7)
    expect(page.locator(".numbers .fig").first).to_contain_text("57.7", timeout=8000)
    first = page.inner_text(".recent tbody tr:first-child")
    seq = factory.begin(factory.console.path, "edge", factory.now_us + 5_000_000)
    expect(page.locator(".recent tbody")).to_contain_text(f"_{seq:x}", timeout=8000)
    assert page.inner_text(".recent tbody tr:first-child") != first
    factory.write_state()


def test_everything_can_be_reached_by_keyboard(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("button.name[data-floor=power]").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#room=power")
    page.wait_for_selector("text=Where it goes now")
    page.locator("button.name[data-floor=power]").focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.floor") == "compute"
    page.keyboard.press("Space")
    page.wait_for_url("**/#room=places")
    page.locator(".recent tbody a.id").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=What happened")
    page.keyboard.press("Escape")
    page.wait_for_url("**/#room=places")


def test_a_figure_leads_to_its_rows(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.locator(".place .fig[aria-label^='attempts today']").first.click()
    page.wait_for_selector("text=Attempts, newest first")
    assert page.locator("main a[download]").count() == 2
    page.locator(".trust a.fig[aria-label^=ledger]").click()
    page.wait_for_selector("text=Each commodity sums to zero")


def test_a_table_is_ordered_by_its_heads_with_the_keyboard(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.locator(".recent header a").click()
    table = page.locator("main [role=region]")
    charge = table.get_by_role("button", name="Charge")

    def charges() -> list[float | None]:
        shown = [plain(t) for t in table.locator("tbody td:last-child").all_inner_texts()]
        return [None if t == "–" else float(t.removeprefix("$").replace(",", "")) for t in shown]

    expect(charge).to_be_visible()
    sent = charges()
    known = sorted(c for c in sent if c is not None)
    unknown = [None] * sent.count(None)
    charge.focus()
    page.keyboard.press("Enter")
    expect(table.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    assert charges() == [*reversed(known), *unknown]
    page.keyboard.press("Enter")
    assert charges() == [*known, *unknown] != sent
    page.keyboard.press("Enter")
    assert charges() == sent


def test_a_request_is_drawn(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.locator(".recent tbody tr", has_text="finished").first.click()
    page.wait_for_selector(".timeline .part")
    told = plain(page.inner_text("main section:nth-child(2)"))
    for words in (
        "Why there",
        "least expected dollars",
        "ruled out: privacy",
        "decode",
        "charge",
        "Whose budget",
    ):
        assert words in told


def test_the_audit_runs_at_a_click(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig, "room=ledger")
    page.get_by_role("button", name="Run the audit").click()
    page.wait_for_selector("text=Everything holds.")


def test_the_twin_room_shows_its_error_and_opens_what_was_asked(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig)
    page.locator(".trust .twin a.fig").click()
    page.wait_for_url("**/#room=twin")
    expect(page.locator(".place .why")).to_contain_text("4 of 10 figures within")
    expect(page.locator(".chart[data-chart=ttft] .plot .dot")).to_have_count(4)
    said = page.get_attribute(".chart[data-chart=ttft] .plot", "aria-label")
    assert said and "measured 3.2, predicted 2.11 s" in said
    page.locator("tbody a", has_text="two places").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".chart[data-chart=queue] .plot")
    expect(page.locator(".chart[data-chart=batch] .line")).to_have_count(4)  # two places, and their legend
    page.locator(".chart[data-chart=batch] figcaption a").click()
    page.wait_for_selector("main a[download]")
    assert page.locator("[role=region] tbody tr").count() > 400


def test_the_efficiency_room_draws_both_chains_and_leads_to_rows(rig: AdminRig, watched: Watched) -> None:
    page = watched.open(rig, "room=efficiency")
    expect(page.locator(".chain").nth(1)).to_be_visible()
    told = page.evaluate("fetch('/api/efficiency?back=1h').then((r) => r.json())")
    for n, chain in enumerate(told["chains"]):
        shown = [
            plain(t) for t in page.locator(".chain").nth(n).locator(".chain-stage > .n").all_inner_texts()
        ]
        assert shown == [stage["factor"]["text"] for stage in chain["stages"]]
    assert page.get_attribute(".chain >> nth=0", "aria-label") == (
        f"{told['chains'][0]['title']}: {told['chains'][0]['says']}"
    )
    page.get_by_role("button", name="15 minutes").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".btn[aria-pressed=true]")).to_have_text("15 minutes")
    page.locator(".losses a.fig[aria-label^=retried]").first.click()
    page.wait_for_selector("text=Attempts lost to: retried")
    assert page.locator("main a[download]").count() == 2


def test_without_a_token_the_door_says_where_it_is(rig: AdminRig, browser: Browser) -> None:
    strange = Watched(browser)
    page = strange.page
    page.goto(rig.url)
    page.wait_for_selector("text=Admin token")
    assert "wattmill status" in page.inner_text("main") and "admin.token" in page.inner_text("main")
    page.fill("#token", "wma-wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    page.fill("#token", rig.factory.token)
    page.keyboard.press("Enter")
    page.wait_for_selector(".tower")
    strange.context.close()
    # A refused sign-in is in the console as the browser's own note of a 401; nothing else may be.
    assert all("401" in fault for fault in strange.faults)


def test_a_silent_admin_app_is_told_and_the_command_with_it(tmp_path: Path, browser: Browser) -> None:
    factory = BoardFactory(tmp_path, requests=6, busy_s=10)
    left = Watched(browser)
    with serving(factory) as rig:
        page = left.open(rig)
    page.wait_for_selector(".notice", timeout=12_000)
    assert "wattmill status" in page.inner_text(".notice")
    left.context.close()
    factory.close()


@pytest.mark.parametrize("width", [360, 768, 1440, 3840])
def test_nothing_is_cut_off_at_any_width(rig: AdminRig, browser: Browser, width: int) -> None:
    seen = Watched(browser, viewport={"width": width, "height": 900})
    page = seen.open(rig)
    for room in ROOMS:
        page.goto(f"{rig.url}/#room={room}")
        page.wait_for_timeout(60)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, room
    seen.context.close()
    assert not seen.faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(rig: AdminRig, browser: Browser, scheme: str) -> None:
    source = axe_source()
    seen = Watched(browser, color_scheme=scheme, bypass_csp=True)
    page = seen.open(rig)
    page.evaluate(source)
    found = []
    first = page.get_attribute(".recent tbody a.id", "href")
    results = page.evaluate("fetch('/api/twin').then((r) => r.json())")["results"]
    told = [f"#result={one['id']}" for one in results]
    for place in (*(f"#room={room}" for room in ROOMS), first, "#rows=%2Fapi%2Frows%2Fenergy", *told):
        page.goto(f"{rig.url}/{place}")
        page.wait_for_timeout(250)
        result = page.evaluate("axe.run({resultTypes: ['violations']})")
        found += [
            (place, v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]])
            for v in result["violations"]
            if v["impact"] in ("serious", "critical")
        ]
    seen.context.close()
    assert found == []


def test_the_page_rests_when_nothing_happens_and_honours_reduced_motion(
    rig: AdminRig, browser: Browser
) -> None:
    calm = Watched(browser, reduced_motion="reduce")
    page = calm.open(rig)
    assert page.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length") == 0
    calm.context.close()


def test_the_assets_are_small(rig: AdminRig, browser: Browser) -> None:
    seen = Watched(browser)
    sizes: list[int] = []
    seen.page.on("requestfinished", lambda r: "/api/" in r.url or sizes.append(r.sizes()["responseBodySize"]))
    seen.open(rig)
    seen.context.close()
    assert 0 < sum(sizes) < 60_000, "budget is 400 kB; what is small should stay small"


def axe_source() -> str:
    """Return axe-core, from a cache or fetched by npm and checked: it is not ours to keep here."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wattmill-tests"
    kept = cache / f"{AXE.replace('@', '-')}.min.js"
    if not kept.exists():
        if shutil.which("npm") is None:
            pytest.skip("cannot here: no npm to fetch axe-core with")
        cache.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", AXE, "--silent", "--pack-destination", str(cache)],
            capture_output=True,
            text=True,
            timeout=90,
        )
        if packed.returncode != 0:
            pytest.skip(f"cannot here: npm cannot fetch {AXE}")
        with tarfile.open(cache / packed.stdout.split()[-1]) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            kept.write_bytes(member.read())
    data = kept.read_bytes()
    assert hashlib.sha256(data).hexdigest() == AXE_SHA256, f"{kept} is not {AXE}"
    return data.decode()
