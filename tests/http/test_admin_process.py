"""The admin app as the process that the supervisor starts: it listens, it speaks, it dies with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import httpx

from wattmill.app.declared.declaration import decode, example_text, stored
from wattmill.app.home import Home
from wattmill.app.running import lifeline
from wattmill.app.running.admin_token import admin_token
from wattmill.ledger.stores.control import Control


def declare(home: Home) -> str:
    """Accept the example as a supervisor does; return the admin token."""
    loaded = decode(example_text(), file="example", folder=home.root, env={})
    assert not isinstance(loaded, list)
    with Control(home.control_db) as control:
        control.put_config(stored(loaded.settings), 1)
        return admin_token(home, control)


def start(home: Home, port: int, **more: object) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "wattmill.app.admin_process", "--home", str(home.root), "--port", str(port)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload, no-any-return]


def test_it_serves_the_board_and_dies_with_its_lifeline(home: Home, free_port: int) -> None:
    token = declare(home)
    child_end, keep = lifeline.make()
    env = {**os.environ, **lifeline.child_env(child_end)}
    process = start(home, free_port, env=env, pass_fds=(child_end,))
    os.close(child_end)
    try:
        url = f"http://127.0.0.1:{free_port}"
        give_up = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{url}/healthz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < give_up
                time.sleep(0.05)
        answer = httpx.get(
            f"{url}/api/figures", headers={"authorization": f"Bearer {token}"}, trust_env=False
        )
        assert answer.json()["running"] is False and answer.json()["health"]["help"] == "wattmill up"
        assert "server" not in answer.headers
        os.close(keep)
        assert process.wait(5) != 0
    finally:
        process.kill()
        process.communicate()


def test_without_a_declaration_it_says_what_makes_one(home: Home, free_port: int) -> None:
    process = start(home, free_port)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 2 and b"wattmill up" in told
