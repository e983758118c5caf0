"""How many replicas a pool should have: a pure decision from what is seen of it."""
