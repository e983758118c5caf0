"""Budgets as people write them; the words are the ledger's, shared with the declaration and the commands."""

from __future__ import annotations

from wattmill.ledger.amounts import WORDS, amount_of

__all__ = ["WORDS", "amount_of"]
