"""Runs: opened on the data port, known to every worker, capped like any other spender."""
