"""`wattmill site`: watts below the token, from the grid to the chip and from the chip to the air."""

from __future__ import annotations

from wattmill.cli.application import application
from wattmill.cli.site_against import against
from wattmill.cli.site_import import import_
from wattmill.cli.site_optics import optics
from wattmill.cli.site_parts import chain, water
from wattmill.cli.site_pue import pue
from wattmill.cli.site_shift import shift
from wattmill.cli.site_year import year

site_app = application(group=True)


site_app.command()(year)
site_app.command()(chain)
site_app.command()(water)
site_app.command()(pue)
site_app.command()(shift)
site_app.command()(optics)
site_app.command()(against)
site_app.command("import")(import_)
