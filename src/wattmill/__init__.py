"""The operating system of a token factory: one record from watt to value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattmill.client import Run, RunError, run

__version__ = "0.1.0"
__all__ = ["Run", "RunError", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """Load the client's helper when it is asked for: processes that serve never do."""
    if name in ("Run", "RunError", "run"):
        from wattmill import client

        return getattr(client, name)
    raise AttributeError(f"module 'wattmill' has no attribute {name!r}")
