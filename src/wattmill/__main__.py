"""`python -m wattmill` is the command `wattmill`."""

from wattmill.cli.main import main

main()
