"""`wattmill twin`: how far the twin's predictions are from what was measured."""

from __future__ import annotations

from wattmill.cli.application import application
from wattmill.cli.twin_known import known
from wattmill.cli.twin_law import crossval, validate
from wattmill.cli.twin_live import calibrate, check

twin_app = application(group=True)


twin_app.command()(validate)
twin_app.command()(crossval)
twin_app.command()(calibrate)
twin_app.command()(check)
twin_app.command()(known)
