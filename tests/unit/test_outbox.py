"""What is put off leaves at the end of the turn, in order; who is alone soon writes at once, for a while."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wattmill.distribution.outbox import Outbox


class Turns:
    """An event loop that is turned by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, step: Callable[[], None]) -> None:
        self.soon.append(step)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for step in soon:
            step()


class Sender:
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def flush(self) -> None:
        self.told.append(self.name)


def test_a_turn_ends_with_one_call_that_writes_for_all_in_order() -> None:
    turns, told = Turns(), list[str]()
    box = Outbox(turns.call_soon)
    for name in "abc":
        box.put_off(Sender(name, told))
    assert told == [] and len(turns.soon) == 1
    turns.turn()
    assert told == ["a", "b", "c"]
    turns.turn()
    assert told == ["a", "b", "c"]


def test_who_is_alone_for_some_turns_writes_at_once_for_a_while() -> None:
    turns, told = Turns(), list[str]()
    box = Outbox(turns.call_soon)
    lonely = 0
    while not box.at_once:
        box.put_off(Sender("x", told))
        turns.turn()
        lonely += 1
        assert lonely < 100
    assert 2 < lonely < 20 and box.at_once > 100


def test_company_keeps_writes_together() -> None:
    turns, told = Turns(), list[str]()
    box = Outbox(turns.call_soon)
    for turn in range(200):
        box.put_off(Sender("x", told))
        if turn % 3 == 0:
            box.put_off(Sender("y", told))
        turns.turn()
    assert not box.at_once


def test_one_that_cannot_write_keeps_nobody_else_waiting() -> None:
    class Broken(Sender):
        def flush(self) -> None:
            raise RuntimeError(self.name)

    turns, told = Turns(), list[str]()
    box = Outbox(turns.call_soon)
    for sender in (Sender("a", told), Broken("b", told), Sender("c", told), Sender("d", told)):
        box.put_off(sender)
    with pytest.raises(RuntimeError, match="b"):
        turns.turn()
    box.put_off(Sender("e", told))
    turns.turn()
    assert told == ["a", "c", "d", "e"]
