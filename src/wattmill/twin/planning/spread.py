"""The same work on many inputs: here, or over the machines of a Ray cluster that is already there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

A = TypeVar("A")
B = TypeVar("B")

Where = Literal["here", "ray"]


class NoCluster(RuntimeError):
    """There is no Ray, or no cluster of it."""


def mapped(work: Callable[[A], B], items: Sequence[A], *, on: Where) -> Iterator[B]:
    """Yield `work` of each item, in the order of the items.

    `work` is a function of a module: a cluster's workers import it, so wattmill must be installed on them.
    Raises `NoCluster` with the way out.
    """
    if on == "here":
        yield from map(work, items)
        return
    yield from _by_ray(work, items)


def _by_ray(work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    try:
        import ray  # an extra: scale
    except ImportError:
        raise NoCluster(
            "Ray is not installed: `pip install 'wattmill[scale]'`, or leave --on ray out"
        ) from None
    _reachable(os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except ConnectionError:
        raise NoCluster(
            "no Ray cluster is running: start one (`ray start --head`), name it in RAY_ADDRESS, or leave "
            "--on ray out"
        ) from None
    try:
        remote = ray.remote(num_cpus=1)(work)
        for pending in [remote.remote(item) for item in items]:
            yield ray.get(pending)
    finally:
        ray.shutdown()


def _reachable(address: str) -> None:
    """Ask a named head for an answer first: Ray itself tries for minutes before it gives up."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return  # `auto`, a client's `ray://...`, or nothing: Ray knows at once
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise NoCluster(
            f"RAY_ADDRESS is {address!r}, where no Ray cluster answers ({error.strerror or error}): start "
            "one (`ray start --head`), or leave --on ray out"
        ) from None
