"""The weather of a year at a place, hour by hour."""
