"""Runaway detection: what an agent that got lost does, told from the outside, call by call."""
