"""The admin token: made at the first start, hashed in the control database, readable by the owner's file."""

from __future__ import annotations

import os

from wattmill.app.home import Home
from wattmill.ledger.stores.control import Control


def admin_token(home: Home, control: Control) -> str:
    """Return the token that opens the board and the admin API.

    It stands in a file of mode 0600 so that the owner of the folder can open the board at any time; whoever
    may read that file may read the books themselves. Remove the file to have a new token at the next start.
    """
    try:
        token = home.admin_token.read_text(encoding="ascii").strip()
        if token and control.check_admin_token(token):
            return token
    except (OSError, UnicodeDecodeError):
        pass  # first start, or removed on purpose
    fresh = control.ensure_admin_token(renew=True)
    assert fresh is not None, "a renewed token is always new"
    draft = home.admin_token.with_suffix(".tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, fresh.encode("ascii"))
    finally:
        os.close(fd)
    os.replace(draft, home.admin_token)
    return fresh
