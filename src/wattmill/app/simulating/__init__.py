"""The declared factory in the twin's world: what `wattmill simulate` runs."""
