"""How often enough of a site is up: parts that fail, are repaired, and stand beside each other."""
