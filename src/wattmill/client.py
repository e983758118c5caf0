"""`with wattmill.run(budget="0.05 USD") as run:` gives an agent a budget that it cannot pass.

Any OpenAI-compatible client is pointed at `run.base_url` with `run.api_key`, or keeps its base URL and sends
`run.headers`. Only the standard library is used, so that an agent's environment needs nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any
from urllib.parse import quote

_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("wattmill_run", default=None)


class RunError(RuntimeError):
    """wattmill said no, or was not reached; `code` and `status` are those of its answer."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Run:
    """One run of an agent. Opened on entering, closed on leaving, also by an exception."""

    def __init__(
        self,
        budget: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        agent: str | None = None,
        parent: Run | str | None = None,
        max_depth: int | None = None,
        max_fan_out: int | None = None,
        expires: str | float | None = None,
        label: str | None = None,
        time_zone: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._asked: dict[str, Any] = {
            "budget": _words(budget),
            "name": name,
            "agent": agent,
            "max_depth": max_depth,
            "max_fan_out": max_fan_out,
            "expires": expires,
            "label": label,
            "time_zone": time_zone,
        }
        self._parent = parent
        self._outer_url = base_url
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._token: contextvars.Token[Run | None] | None = None
        self._state: dict[str, Any] = {}
        self._key = ""
        self._root = ""

    # --- what a client needs ----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        if "id" not in self._state:
            raise RunError("the run is not open: use it inside `with wattmill.run(...) as run:`")
        return str(self._state["id"])

    @property
    def base_url(self) -> str:
        """Return the base URL whose requests are in this run, ending in `/v1`."""
        return f"{self._root}/run/{quote(self.id, safe='')}/v1"

    @property
    def api_key(self) -> str:
        return self._key

    @property
    def headers(self) -> dict[str, str]:
        """Return headers that put a request into this run, for clients that keep their base URL."""
        return {"x-wattmill-run": self.id}

    @property
    def spent_usd(self) -> Decimal:
        """Return what the run and all below it were charged, in USD, as the workers told it.

        Each worker tells some four times a second, so this may miss the answers of the last moment (and
        never shows more than was charged). The budget itself does not wait for it: it holds at once.
        """
        return Decimal(str(self.refresh()["spent_usd"]))

    @property
    def left_usd(self) -> Decimal | None:
        """Return what is left of the budget in USD, with the same delay as `spent_usd`; None without one."""
        left = self.refresh()["left_usd"]
        return None if left is None else Decimal(str(left))

    @property
    def state(self) -> str:
        """Return "open", "paused", "stopped" or "closed"."""
        return str(self.refresh()["state"])

    def refresh(self) -> dict[str, Any]:
        """Return all that wattmill says of the run."""
        self._state = self._call("GET", f"/v1/runs/{quote(self.id, safe='')}")
        return self._state

    def step(self, name: str) -> dict[str, str]:
        """Return headers that also name a step, so that its spending is seen by itself."""
        return {**self.headers, "x-wattmill-step": name}

    # --- life -------------------------------------------------------------------------------------------

    def open(self) -> Run:
        parent = self._parent
        above = _current.get() if parent is None else parent if isinstance(parent, Run) else None
        self._key = self._api_key or (above._key if above is not None else "") or _env("WATTMILL_API_KEY")
        url = self._outer_url or (above._root + "/v1" if above is not None else _env("WATTMILL_BASE_URL"))
        self._root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        asked = {name: value for name, value in self._asked.items() if value is not None}
        if above is not None and above._root == self._root and above._key == self._key:
            asked["parent"] = above.id
        elif isinstance(parent, str):
            asked["parent"] = parent
        self._state = self._call("POST", "/v1/runs", asked)
        return self

    def close(self) -> None:
        """Close the run and all below it. What it did not spend was never taken from those above it."""
        self._state = self._call("POST", f"/v1/runs/{quote(self.id, safe='')}/close")

    def __enter__(self) -> Run:
        self.open()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._close_after(error)

    async def __aenter__(self) -> Run:
        await asyncio.to_thread(self.open)
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        await asyncio.to_thread(self._close_after, error)

    def _leave(self) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None

    def _close_after(self, error: BaseException | None) -> None:
        try:
            self.close()
        except (RunError, OSError):
            if error is None:  # else the block's own exception is what its caller must see
                raise

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            self._root + path,
            method=method,
            data=json.dumps(body or {}).encode() if method == "POST" else None,
            headers={"authorization": f"Bearer {self._key}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            raise _told(error) from error
        except urllib.error.URLError as error:
            raise RunError(
                f"no wattmill answers at {self._root}: {error.reason}. `wattmill up` starts one; "
                "WATTMILL_BASE_URL or base_url=... says where it is",
                code="not_reached",
            ) from error


def run(budget: str | Sequence[str] | None = None, **options: Any) -> Run:
    """Return a run to be entered: `with wattmill.run(budget="0.05 USD") as run:`, or `async with`.

    The budget holds from the first request on, at every worker. The figures (`spent_usd`, `left_usd`) follow
    the answers by a moment, since each worker tells what it charged some four times a second.

    Args:
        budget: one amount or several, e.g. "0.05 USD", "20000 tokens", "100 requests/hour".
        options: name, agent, parent, max_depth, max_fan_out, expires ("15m"), label; time_zone of budgets per
            day or month ("Europe/Berlin"; UTC if absent); base_url and api_key, which otherwise come from the
            run around this one, or from WATTMILL_BASE_URL and WATTMILL_API_KEY.
    """
    return Run(budget, **options)


def _words(budget: str | Sequence[str] | None) -> str | list[str] | None:
    if isinstance(budget, int | float | Decimal):
        raise RunError(f"budget is {budget!r}, must be text that says of what: '{budget} USD', or 'N tokens'")
    return budget if budget is None or isinstance(budget, str) else list(budget)


def _told(error: urllib.error.HTTPError) -> RunError:
    try:
        said = json.load(error)["error"]
        return RunError(said["message"], code=said["code"], status=error.code)
    except (ValueError, KeyError, TypeError):
        return RunError(f"{error.url} answered {error.code}", status=error.code)


def _env(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        argument = name.removeprefix("WATTMILL_").lower()
        what = {"api_key": "which key asks?", "base_url": "where is wattmill?"}[argument]
        raise RunError(f"{what} Pass {argument}=..., or set {name}")
    return value
