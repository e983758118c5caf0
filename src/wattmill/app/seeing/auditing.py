"""The audit of one factory's folder, running or not."""

from __future__ import annotations

from wattmill.app.home import Home
from wattmill.ledger import epoch as epochs
from wattmill.ledger.audit import Progress, Report, audit
from wattmill.ledger.stores.control import Control
from wattmill.ledger.stores.sqlite_read import Books


def audit_home(home: Home, progress: Progress = lambda _done, _steps, _name: None) -> Report:
    """Return the proof or its failure. Raises `FileNotFoundError` when no factory ever ran there."""
    with Books(home.ledger_db) as books:
        alive = any(epochs.alive(home.journal / name) for name in epochs.names(home.journal))
        followed = books.db.execute("SELECT count(*) FROM epoch WHERE state <> 'folded'").fetchone()[0]
        with Control(home.control_db) as control:
            used = {budget.node: budget.used_nusd for budget in control.summaries()}
            return audit(
                books,
                home.journal,
                prices=control.prices(),
                parents={id: node.parent for id, node in control.nodes().items()},
                used=None if alive or followed else used,
                progress=progress,
            )
