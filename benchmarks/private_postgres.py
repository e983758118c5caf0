"""A PostgreSQL cluster of one's own: made in a folder, on a Unix socket, gone with its `with`.

For tests and benchmarks. PostgreSQL refuses to run as root, so that root runs it as an unprivileged user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

UNPRIVILEGED = ("postgres", "nobody")


class NoPostgres(RuntimeError):
    """There is no PostgreSQL server on this machine."""


def programs() -> Path:
    """Return the folder of `initdb` and `postgres`, the newest of several."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    folders = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: float(folder.parent.name),
    )
    if not folders:
        raise NoPostgres("no PostgreSQL server is installed: scripts/system-packages.sh postgres")
    return folders[-1]


class PrivatePostgres:
    """`with PrivatePostgres() as url:` gives the address of an empty database."""

    def __init__(self) -> None:
        self._bin = programs()
        self._user = None if os.geteuid() != 0 else _unprivileged()
        # A short path: a Unix socket's name has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="wmpg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        try:
            if self._user is not None:
                os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            data = self.folder / "data"
            self._run("initdb", "-D", str(data), "-U", "wattmill", "-A", "trust", "--no-sync", "-E", "UTF8")
            self.start()
        except BaseException:
            self.stop()
            raise
        return f"postgresql://wattmill@/postgres?host={quote(str(self.folder), safe='')}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder),
                    "-c", "listen_addresses=", "-c", "max_connections=50", "-c", "shared_buffers=16MB",
                ],
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else [],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )  # fmt: skip
        give_up = time.monotonic() + 30
        while subprocess.run(
            [str(self._bin / "pg_isready"), "-h", str(self.folder), "-q"], check=False
        ).returncode:
            if time.monotonic() > give_up or self._process.poll() is not None:
                raise NoPostgres(f"the server did not start: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            user=None if self._user is None else self._user.pw_uid,
            group=None if self._user is None else self._user.pw_gid,
            extra_groups=None if self._user is None else [],
            cwd=self.folder, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise NoPostgres(f"{program} failed: {done.stderr[-800:]}")


def _unprivileged() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres(f"none of the users {', '.join(UNPRIVILEGED)} exists; run this as an ordinary user")
