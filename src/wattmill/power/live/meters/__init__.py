"""Meters of the world, one file each; `registry` finds them by name."""
