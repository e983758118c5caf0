"""A grid event rehearsed on a planned factory: the live governor, a simulated site."""
