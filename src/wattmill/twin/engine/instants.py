"""A heap of (instant, row): who comes next, of one instant the lowest row."""

from __future__ import annotations

from wattmill.twin.engine.compiled import Array, inner


@inner
def _before(heap: Array, a: int, b: int) -> bool:
    return heap[a, 0] < heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] < heap[b, 1])


@inner
def _swap(heap: Array, a: int, b: int) -> None:
    at, row = heap[a, 0], heap[a, 1]
    heap[a, 0], heap[a, 1] = heap[b, 0], heap[b, 1]
    heap[b, 0], heap[b, 1] = at, row


@inner
def put(heap: Array, size: int, at: int, row: int) -> int:
    """Put (at, row) into the heap of `size` and return its new size."""
    heap[size, 0], heap[size, 1] = at, row
    child = size
    while child > 0 and _before(heap, child, (child - 1) >> 1):
        _swap(heap, child, (child - 1) >> 1)
        child = (child - 1) >> 1
    return size + 1


@inner
def taken(heap: Array, size: int) -> int:
    """Take the first out of the heap of `size` and return its new size."""
    size -= 1
    _swap(heap, 0, size)
    above = 0
    while True:
        child = 2 * above + 1
        if child >= size:
            return size
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, above):
            return size
        _swap(heap, above, child)
        above = child
