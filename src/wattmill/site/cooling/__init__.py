"""Where the heat goes: water loops, coolers, trim chillers, and what of the heat somebody can use."""
