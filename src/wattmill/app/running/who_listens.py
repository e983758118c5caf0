"""Who holds a port: so that a refusal can name the process in the way."""

from __future__ import annotations

import errno
import os
import socket


def port_is_free(host: str, port: int) -> bool:
    return _refused(host, port) is None


def _refused(host: str, port: int) -> OSError | None:
    """Try to take the port for a moment, without SO_REUSEPORT, so that a running gateway counts as taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def why_not_free(host: str, port: int) -> tuple[str, str | None] | None:
    """Return what keeps a port from being taken, and the way out; None if nothing does.

    The way out is None where another program holds it: that one may end, or another port be chosen.
    """
    error = _refused(host, port)
    if error is None:
        return None
    if isinstance(error, socket.gaierror):
        return "cannot be had: that name has no address", _OWN_ADDRESS
    if error.errno == errno.EADDRINUSE:
        return f"is held by {holder_of(port)}", None
    if error.errno == errno.EADDRNOTAVAIL:
        return "cannot be had: this machine has no such address", _OWN_ADDRESS
    if error.errno == errno.EACCES:
        return "may not be had by this user", "Choose a port above 1023"
    return f"cannot be had: {error.strerror or error}", "Declare another address or port"


_OWN_ADDRESS = "Declare an address of this machine, such as 127.0.0.1"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that the kernel gave us a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def holder_of(port: int) -> str:
    """Return e.g. `pid 4711 (nginx: master)` for the process that listens on `port`, or a plain guess."""
    inodes = _listening_inodes(port)
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    return f"pid {pid} ({_command(pid)})"
        except OSError:
            continue  # gone, or another user's
    return "another program"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rsplit(":", 1)[1], 16) == port}
    return inodes


def _command(pid: str) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return words[:80] or pid
