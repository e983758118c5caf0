"""Picture of the board of a running factory: `python scripts/board_screenshot.py HOME OUT.png [--dark]`.

Needs Chromium and the Python package `playwright` (its own browser download is not used).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="data folder of the running factory")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=0, help="0: the whole page")
    parser.add_argument(
        "--room", default="places", help="places, power, efficiency, tenants, decisions, ledger, twin"
    )
    parser.add_argument("--request", help="a request id, instead of a room")
    parser.add_argument("--url", help="of the admin listener, if not as the factory's state says")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long to watch first, for the trends")
    args = parser.parse_args()

    token = (args.home / "admin.token").read_text().strip()
    url = args.url or json.loads((args.home / "run" / "state.json").read_text())["admin_url"]
    view = f"request={args.request}" if args.request else f"room={args.room}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        page = browser.new_page(
            viewport={"width": args.width, "height": args.height or 900},
            color_scheme="dark" if args.dark else "light",
            device_scale_factor=2 if args.width <= 800 else 1.5,
        )
        page.goto(f"{url}/#token={token}&{view}")
        page.wait_for_selector(".tower")
        page.wait_for_timeout(args.seconds * 1000)
        page.screenshot(path=args.out, full_page=not args.height)
        browser.close()
    print(args.out)


if __name__ == "__main__":
    main()
