"""The admin listener: `python -m wattmill.app.admin_process --home DIR`. It may die alone."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

import uvicorn

from wattmill.app.declared.declaration import restored
from wattmill.app.declared.settings import Admin
from wattmill.app.home import Home
from wattmill.app.running import lifeline
from wattmill.ledger.stores.control import Control

SURFACE = "wattmill.web.admin"
"""Imported by name: surfaces stand above the app, which only starts them."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="wattmill.app.admin_process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, help="instead of the declared one")
    args = parser.parse_args(argv)
    lifeline.arm()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Home(args.home), port=args.port)


def serve(home: Home, *, port: int | None = None) -> None:
    """Serve until SIGTERM. Streams of watchers are ended at once."""
    with Control(home.control_db) as control:
        listen = declared(control)
        app = importlib.import_module(SURFACE).admin_app(home, control=control, host=listen.host)
        config = uvicorn.Config(
            app,
            host=listen.host,
            port=listen.port if port is None else port,
            log_level="warning",
            access_log=False,  # paths may name requests of tenants
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=200,
            proxy_headers=False,
            ws="none",
        )
        uvicorn.Server(config).run()


def declared(control: Control) -> Admin:
    """Return where to listen, as the newest accepted declaration says."""
    config = control.config()
    if config is None:
        print(
            "wattmill: no declaration was accepted in this folder yet; `wattmill up` does that",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return restored(config[1]).admin


if __name__ == "__main__":
    main()
