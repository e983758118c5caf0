"""Who gets in at the admin listener, and what every answer carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from admin_rig import AdminRig, serving

from board_factory import BoardFactory


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminRig]:
    factory = BoardFactory(tmp_path_factory.mktemp("door"), requests=8, busy_s=20)
    with serving(factory) as rig:
        yield rig
    factory.close()


@pytest.fixture
def stranger(rig: AdminRig) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=rig.url, trust_env=False) as client:
        yield client


@pytest.fixture
def admin(rig: AdminRig) -> Iterator[httpx.Client]:
    with rig.client() as client:
        yield client


CLOSED = (
    "/api/figures", "/api/live", "/api/requests", "/api/requests/req_000000000000_1", "/api/rows/energy",
    "/api/rows/balances", "/api/audit", "/api/keys", "/api/tenants", "/api/budgets", "/api/prices",
    "/api/places",    "/api/nothing-of-the-kind",
)  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_without_the_token_nothing_is_told(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert "admin.token" in answer.json()["error"]["help"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/static/main.js", "/static/board.css"])
def test_the_page_and_its_assets_are_open(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(path).status_code == 200


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer wma-wrong", "Basic d21hOng=", "wma-wrong", "Bearer a b c"]
)
def test_a_wrong_token_is_no_token(stranger: httpx.Client, value: str) -> None:
    assert stranger.get("/api/figures", headers={"authorization": value}).status_code == 401


def test_the_token_opens(admin: httpx.Client) -> None:
    assert admin.get("/api/figures").status_code == 200


def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use(
    rig: AdminRig, stranger: httpx.Client
) -> None:
    assert stranger.get("/api/session").status_code == 401
    answer = stranger.post("/api/session", json={"token": rig.factory.token})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 200 and "httponly" in cookie and "samesite=strict" in cookie
    assert rig.factory.token.lower() not in cookie
    assert stranger.get("/api/figures").status_code == 200
    stranger.request(
        "DELETE", "/api/session", headers={"content-type": "application/json", "origin": rig.url}
    )
    assert stranger.get("/api/figures").status_code == 401


def test_a_wrong_token_makes_no_session(stranger: httpx.Client) -> None:
    answer = stranger.post("/api/session", json={"token": "wma-guess"})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    assert "wma-guess" not in answer.text


def test_a_session_that_was_edited_or_has_ended_is_none(rig: AdminRig, stranger: httpx.Client) -> None:
    from wattmill.web.guard import Sessions

    sessions = Sessions(rig.factory.home)
    good = sessions.make()
    until, _, seal = good.partition(".")
    assert sessions.is_good(good)
    for bad in (
        f"{int(until) + 1}.{seal}",
        f"{until}.",
        f".{seal}",
        "",
        "x",
        f"{until}.{seal}0",
        f"-1.{seal}",
    ):
        assert not sessions.is_good(bad)
    late = Sessions(rig.factory.home, wall_s=lambda: int(until) + 1.0)
    assert not late.is_good(good)


def test_sessions_outlive_the_admin_app_and_end_with_the_token(tmp_path: Path) -> None:
    from wattmill.app.home import Home
    from wattmill.web.guard import Sessions

    home = Home(tmp_path)
    home.admin_token.write_text("wma-one")
    cookie = Sessions(home).make()
    assert Sessions(home).is_good(cookie)
    home.admin_token.write_text("wma-two")
    assert not Sessions(home).is_good(cookie)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "wattmill.local", ""])
def test_a_name_that_is_not_ours_is_refused_before_anything_is_read(admin: httpx.Client, host: str) -> None:
    answer = admin.get("/api/figures", headers={"host": host})
    assert answer.status_code == 421 and answer.json()["error"]["code"] == "wrong_host"
    assert admin.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8687", "127.0.0.1", "[::1]:8687", "192.168.1.4:8687"])
def test_addresses_and_localhost_are_ours(admin: httpx.Client, host: str) -> None:
    assert admin.get("/api/figures", headers={"host": host}).status_code == 200


FOREIGN = (
    {"origin": "http://127.0.0.1:1"},
    {"origin": "null"},
    {"origin": "https://evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_page_cannot_change_anything(
    rig: AdminRig, stranger: httpx.Client, headers: dict[str, str]
) -> None:
    stranger.post("/api/session", json={"token": rig.factory.token})
    before = rig.factory.control.generation()
    answer = stranger.post("/api/tenants", json={"org": "planted"}, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "cross_site"
    assert rig.factory.control.generation() == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_can_send_changes_nothing(admin: httpx.Client, kind: str) -> None:
    answer = admin.post("/api/tenants", content=b'{"org":"planted"}', headers={"content-type": kind})
    assert answer.status_code == 403 and "application/json" in answer.json()["error"]["message"]


def test_every_answer_carries_the_security_headers(stranger: httpx.Client) -> None:
    for path in ("/", "/static/main.js", "/api/figures", "/nowhere"):
        headers = stranger.get(path).headers
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_the_page_has_no_inline_script_or_style_and_asks_nobody_else(stranger: httpx.Client) -> None:
    page = stranger.get("/").text
    assert "<style" not in page and "style=" not in page and "onclick" not in page
    assert page.count("<script") == page.count('<script type="module" src="/static/')
    assert "http://" not in page and "https://" not in page


def test_assets_stay_in_their_folder(stranger: httpx.Client) -> None:
    for path in ("/static/../admin.py", "/static/%2e%2e/admin.py", "/static/..%2fguard.py", "/static/"):
        assert stranger.get(path).status_code in (404, 405, 401)
