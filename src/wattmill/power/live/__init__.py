"""Meters: how this layer touches the world."""
