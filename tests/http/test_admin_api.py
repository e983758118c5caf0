"""The admin API: figures that equal their rows, and changes that the control database keeps."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from types import FrameType

import httpx
import pytest
from admin_rig import AdminRig, serving

from board_factory import BoardFactory


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("api"))
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture
def admin(rig: AdminRig) -> Iterator[httpx.Client]:
    with rig.client() as client:
        yield client


def exported(admin: httpx.Client, path: str) -> list[dict]:  # type: ignore[type-arg]
    answer = admin.get(f"{path}{'&' if '?' in path else '?'}format=jsonl")
    assert answer.status_code == 200 and "attachment" in answer.headers["content-disposition"]
    return [json.loads(line) for line in answer.text.splitlines()]


def line(figures: dict, id: str) -> dict:  # type: ignore[type-arg]
    return next(item["figure"] for item in figures["line"] if item["id"] == id)


def test_money_and_tokens_of_today_are_the_sums_of_their_rows(rig: AdminRig, admin: httpx.Client) -> None:
    figures = admin.get("/api/figures").json()
    midnight = figures["at_us"] // 86_400_000_000 * 86_400_000_000
    rows = [r for r in exported(admin, "/api/requests") if r["at_us"] + (r["duration_us"] or 0) >= midnight]
    charge, cost = sum(r["charge_nusd"] for r in rows), sum(r["cost_nusd"] for r in rows)
    tokens = sum((r["prompt_tok"] or 0) + (r["output_tok"] or 0) for r in rows)
    assert rows and line(figures, "spend")["value"] == charge
    assert line(figures, "margin")["value"] == charge - cost
    assert line(figures, "usd_per_mtok")["value"] == pytest.approx(charge * 1e6 / tokens)
    for place in figures["places"]:
        mine = [r for r in rows if r["pool"] == place["pool"]]
        assert place["charge"]["value"] == sum(r["charge_nusd"] for r in mine)
        assert place["requests"]["value"] == len(mine)


def test_every_row_link_of_the_board_opens(admin: httpx.Client) -> None:
    found: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("rows"), str):
                found.add(value["rows"])
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(admin.get("/api/figures").json())
    assert len(found) > 20
    for path in found:
        assert admin.get(path).status_code == 200, path


def test_spend_of_a_team_is_the_sum_of_its_keys(admin: httpx.Client) -> None:
    spenders = {s["id"]: s for s in admin.get("/api/figures").json()["spenders"]}
    for s in spenders.values():
        children = [c for c in spenders.values() if c["parent"] == s["id"]]
        if children:
            assert s["today"]["value"] == sum(c["today"]["value"] for c in children)
        rows = exported(admin, f"/api/requests?node={s['id']}")
        assert s["today"]["value"] == sum(r["charge_nusd"] for r in rows)


def test_filters_name_what_they_do_not_know(admin: httpx.Client) -> None:
    answer = admin.get("/api/requests", params={"status": "lost"})
    assert answer.status_code == 400 and "must be one of: finished" in answer.json()["error"]["message"]
    answer = admin.get("/api/requests", params={"colour": "red"})
    assert answer.status_code == 400 and "colour" in answer.json()["error"]["message"]
    assert admin.get("/api/requests", params={"limit": "0"}).status_code == 400


def test_pages_hold_every_row_once(admin: httpx.Client) -> None:
    every = [(r["id"], r["attempt"]) for r in exported(admin, "/api/requests")]
    seen: list[tuple[str, int]] = []
    path: str | None = "/api/requests?limit=17"
    while path:
        page = admin.get(path).json()
        assert len(page["rows"]) <= 17
        seen += [(r["id"], r["attempt"]) for r in page["rows"]]
        path = page["next"]
    assert seen == every and len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("pool=edge", lambda r: r["pool"] == "edge"),
        ("status=aborted", lambda r: r["status"] == "aborted"),
        ("status=failed", lambda r: r["status"] in ("failed", "cut")),
        ("status=failover", lambda r: r["attempt"] > 0),
        ("status=refused", lambda r: r["error"] == "budget_exceeded"),
        ("pool=edge&status=finished", lambda r: r["pool"] == "edge" and r["status"] == "finished"),
    ],
)
def test_a_filter_lists_what_it_names_and_all_of_it(admin: httpx.Client, query: str, holds) -> None:  # type: ignore[no-untyped-def]
    rows = admin.get(f"/api/requests?{query}&limit=500").json()["rows"]
    assert rows and all(holds(r) for r in rows)
    if "refused" not in query:
        assert len(rows) == sum(holds(r) for r in exported(admin, "/api/requests"))


def test_csv_is_text_that_no_spreadsheet_runs(admin: httpx.Client, rig: AdminRig) -> None:
    from wattmill.web.exports import csv_bytes

    rows = [
        {"name": "=HYPERLINK(1)", "n": -5, "x": None},
        {"name": "+1", "n": 0, "x": "@a"},
        {"name": 'a,"b', "n": 1, "x": "-"},
    ]
    table = list(csv.reader(io.StringIO(csv_bytes(["name", "n", "x"], rows).decode())))
    assert (
        table[1] == ["'=HYPERLINK(1)", "-5", ""]
        and table[2] == ["'+1", "0", "'@a"]
        and table[3] == ['a,"b', "1", "'-"]
    )
    answer = admin.get("/api/requests", params={"format": "csv"})
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(table) == len(exported(admin, "/api/requests"))


def test_balances_sum_to_zero_and_energy_windows_add_up(admin: httpx.Client) -> None:
    sums: dict[str, int] = {}
    for row in admin.get("/api/rows/balances").json()["rows"]:
        sums[row["commodity"]] = sums.get(row["commodity"], 0) + row["balance"]
    assert sums and not any(sums.values())
    for row in admin.get("/api/rows/energy").json()["rows"]:
        parts = ("idle", "requests", "service", "foreign", "overhead", "unattributed")
        assert row["total_j"] == pytest.approx(sum(row[f"{part}_j"] for part in parts))


BEYOND = "99999999999999999999"  # more than a database's integers hold


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/api/runs/{BEYOND}", 404),
        ("POST", f"/api/runs/{BEYOND}/stop", 404),
        ("DELETE", f"/api/keys/{BEYOND}", 404),
        ("POST", f"/api/keys/{BEYOND}/rotate", 404),
        ("PUT", f"/api/budgets/{BEYOND}", 404),
        ("GET", "/api/requests/req_ffffffffffff_ffffffffffffffffff", 404),
        ("GET", f"/api/requests?node={BEYOND}", 200),
        ("GET", f"/api/requests?key={BEYOND}", 200),
    ],
)
def test_numbers_beyond_all_bounds_are_told_not_to_be_there(
    admin: httpx.Client, method: str, path: str, status: int
) -> None:
    told = admin.request(method, path, json={})
    assert told.status_code == status and told.json().get("rows", []) == [], told.text


def test_a_body_nested_without_end_is_told_so(admin: httpx.Client) -> None:
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    told = admin.post("/api/keys", content=deep, headers={"content-type": "application/json"})
    assert told.status_code == 400 and told.json()["error"]["code"] == "bad_value"


def test_a_request_is_explained_with_its_time_line(admin: httpx.Client) -> None:
    rows = exported(admin, "/api/requests")
    two = next(r for r in rows if r["attempt"] == 1)
    told = admin.get(f"/api/requests/{two['id']}").json()
    assert len(told["view"]["attempts"]) == 2 and told["story"]["request_id"] == two["id"]
    assert {c["verdict"] for c in told["view"]["candidates"]} >= {"chosen", "ruled out: privacy"}
    for attempt in told["view"]["attempts"]:
        spans = attempt["spans"]
        assert sum(s["figure"]["value"] for s in spans) == attempt["duration"]["value"]
        assert sum(s["share"] for s in spans) == pytest.approx(1)


def test_an_unknown_request_says_where_it_was_looked_for(admin: httpx.Client) -> None:
    for id in ("req_000000000000_1", "nonsense", "req_x_1"):
        answer = admin.get(f"/api/requests/{id}")
        assert answer.status_code == 404 and answer.json()["error"]["help"]


def test_the_audit_runs_from_the_board(admin: httpx.Client) -> None:
    report = admin.get("/api/audit").json()
    assert report["ok"] is True and report["checks"]


def test_a_key_is_shown_once_rotated_and_revoked(rig: AdminRig, admin: httpx.Client) -> None:
    made = admin.post(
        "/api/keys", json={"team": "demo/first-light", "name": "visitor", "models": ["smollm2-135m"]}
    )
    assert made.status_code == 201 and made.json()["secret"].startswith("wm-")
    id, secret = made.json()["key"]["id"], made.json()["secret"]
    listing = admin.get("/api/keys").text
    assert "visitor" in listing and secret not in listing
    rotated = admin.post(f"/api/keys/{id}/rotate", json={"grace_s": 0}).json()
    assert rotated["secret"] != secret
    answer = admin.request("DELETE", f"/api/keys/{id}", headers={"content-type": "application/json"})
    assert answer.json() == {"revoked": True, "changed": True}
    everybody = rig.factory.control.keys()
    assert next(k for k in everybody if k.id == id).revoked_us is not None


def test_errors_name_the_field_the_value_and_the_way_out(admin: httpx.Client) -> None:
    taken = admin.post("/api/keys", json={"team": "demo/first-light", "name": "console"})
    assert taken.status_code == 409
    unknown = admin.post("/api/keys", json={"team": "demo/nobody", "name": "x"})
    assert unknown.status_code == 404 and "demo/nobody" in unknown.json()["error"]["message"]
    typo = admin.post("/api/keys", json={"team": "demo/first-light", "nmae": "x"})
    assert (
        typo.status_code == 400
        and "nmae" in typo.json()["error"]["message"]
        and "name" in typo.json()["error"]["help"]
    )
    assert (
        admin.post("/api/keys", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    )
    large = admin.post("/api/keys", json={"team": "demo/first-light", "name": "x" * 100_000})
    assert large.status_code == 413
    assert admin.get("/api/nothing").json()["error"]["code"] == "not_found"
    wrong = admin.put("/api/keys", json={})
    assert wrong.status_code == 405 and wrong.json()["error"]["code"] == "method_not_allowed"


def test_a_cap_is_set_and_lifted(rig: AdminRig, admin: httpx.Client) -> None:
    node = admin.post("/api/tenants", json={"org": "acme", "cap_nusd": 10**9}).json()["node"]
    team = admin.post("/api/tenants", json={"org": "acme", "team": "lab"}).json()["node"]
    assert admin.put(f"/api/budgets/{team}", json={"cap_nusd": 5}).json()["cap_nusd"] == 5
    assert admin.put(f"/api/budgets/{team}", json={"cap_nusd": None}).json()["cap_nusd"] is None
    assert admin.put(f"/api/budgets/{team}", json={"cap_nusd": -1}).status_code == 400
    assert admin.put("/api/budgets/999999", json={"cap_nusd": 1}).status_code == 404
    assert {b["node"] for b in admin.get("/api/budgets").json()["budgets"]} >= {node, team}
    assert admin.post("/api/tenants", json={"org": "nowhere", "team": "lab"}).status_code == 404


def test_a_limit_of_any_unit_is_set_shown_and_lifted(admin: httpx.Client) -> None:
    node = admin.post("/api/tenants", json={"org": "limited"}).json()["node"]
    asked = {"unit": "total_tok", "period": "day", "amount": 20_000, "zone": "Europe/Berlin"}
    (limit,) = admin.put(f"/api/budgets/{node}/limits", json=asked).json()["limits"]
    assert (limit["unit"], limit["left"], limit["zone"]) == ("total_tok", 20_000, "Europe/Berlin")
    assert limit["resets_us"] > 1_700_000_000_000_000
    wrong = admin.put(f"/api/budgets/{node}/limits", json=asked | {"zone": "Mars/Olympus"})
    assert wrong.status_code == 400 and "time zone is" in wrong.json()["error"]["message"]
    lifted = admin.put(f"/api/budgets/{node}/limits", json=asked | {"amount": None}).json()
    assert lifted["limits"] == []
    assert admin.get("/api/leases").status_code == 200
    assert admin.post("/api/leases/aaaaaaaaaaaa/write-off", json={}).status_code == 404


def test_prices_and_places_are_listed(admin: httpx.Client) -> None:
    prices = admin.get("/api/prices").json()["prices"]
    assert {p["book"] for p in prices} >= {"edge cost", "cloud list"}
    places = admin.get("/api/places").json()["places"]
    assert [p["pool"] for p in places] == ["edge", "local", "cloud"] and places[2]["stand_in"]


def test_reload_signals_the_supervisor(admin: httpx.Client) -> None:
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGHUP, hear)
    try:
        assert admin.post("/api/reload", json={}).status_code == 202
        assert heard == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
