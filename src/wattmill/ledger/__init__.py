"""Across the layers: the journal, the books, prices, budgets and their proofs."""
