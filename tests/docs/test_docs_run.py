"""Each page of the tutorial and the how-to does what it says: its commands are typed, its output compared."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doc_pages import Step, missing_line, steps

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "docs" / "tutorial.md", *(ROOT / "docs" / "how-to").glob("*.md")])
READY = re.compile(r"ready in|listening")
ASKS_A_FACTORY = re.compile(
    r"868[67]|\.wattmill/|wattmill (keys|budget|status|explain|audit|reconcile|backup|prices)"
)
READY_S = 60.0
TYPED_S = 150.0  # the first simulation waits for the compiler: half a minute of CPU, and CI has two processes

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


class Reader:
    """Somebody who follows a page: a folder, a shell that remembers exported variables, further terminals."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder = folder
        self._ports = ports
        self._terminals: list[subprocess.Popen[bytes]] = []
        tools = folder / ".tools"
        tools.mkdir()
        command = f'#!/bin/sh\nexec "{sys.executable}" -m wattmill "$@"\n'
        for name, text in {
            "wattmill": command,
            "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        }.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        (tools / "state").touch()
        self._env = {
            **{name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "WATTMILL_CHECKOUT": str(ROOT),
            "NO_COLOR": "1",
        }

    def follow(self, step: Step) -> str:
        """Do one step; return what it printed. Raises `AssertionError` when it does not do what is shown."""
        text = self._here(step.text)
        if step.kind == "write":
            assert step.file is not None
            (self.folder / step.file).write_text(text)
            return ""
        if step.kind == "background":
            return self._open_terminal(text)
        done = subprocess.run(
            ["bash", "-c", 'set -eo pipefail; . .tools/state; trap "export -p > .tools/state" EXIT\n' + text],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TYPED_S,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"line {step.line}: exit code {done.returncode} of\n{text}\n\n{output}"
        lost = missing_line(tuple(map(self._here, step.expected)), output)
        assert lost is None, f"line {step.line}: the page shows\n  {lost}\nbut\n  {text}\nprinted\n{output}"
        return output

    def leave(self) -> None:
        """Close the terminals, the youngest first."""
        for terminal in reversed(self._terminals):
            if terminal.poll() is None:
                os.kill(terminal.pid, signal.SIGINT)
                try:
                    terminal.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(terminal.pid, signal.SIGKILL)
                    terminal.wait(5)

    def _open_terminal(self, text: str) -> str:
        log = self.folder / ".tools" / f"terminal-{len(self._terminals)}"
        with log.open("wb") as out:
            terminal = subprocess.Popen(
                ["bash", "-c", f". .tools/state; exec {text}"],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._terminals.append(terminal)
        until_s = time.monotonic() + READY_S
        while not READY.search(output := log.read_text(errors="replace")):
            assert terminal.poll() is None, f"{text} ended with {terminal.returncode}:\n{output}"
            assert time.monotonic() < until_s, f"{text} was not ready in {READY_S:.0f} s:\n{output}"
            time.sleep(0.05)
        return output

    def _here(self, text: str) -> str:
        """Put this test's own ports where the page has the usual ones."""
        own = f"wattmill up --port {self._ports['8686']} --admin-port {self._ports['8687']}"
        text = re.sub(r"^wattmill up\b", own, text)
        return re.sub(r"\b(8686|8687|8000)\b", lambda usual: self._ports[usual[1]], text)


def some_ports() -> dict[str, str]:
    """Return a free port for each port that pages use; all are held until all are known."""
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    free = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return dict(zip(("8686", "8687", "8000"), free, strict=True))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[Path, dict[str, str]]]]:
    """Return a factory that runs the built-in example, started when the first page wants it."""
    ports = some_ports()
    keeper: Reader | None = None

    def running() -> tuple[Path, dict[str, str]]:
        nonlocal keeper
        if keeper is None:
            keeper = Reader(tmp_path_factory.mktemp("house"), ports)
            keeper.follow(Step(0, "background", "wattmill up"))
        return keeper.folder / ".wattmill", ports

    yield running
    if keeper is not None:
        keeper.leave()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(
    page: Path, tmp_path: Path, house: Callable[[], tuple[Path, dict[str, str]]]
) -> None:
    script = steps(page.read_text(encoding="utf-8"))
    need_programs(script)
    brings_its_own = any(step.kind == "background" and step.text.startswith("wattmill up") for step in script)
    wants_one = any(ASKS_A_FACTORY.search(step.text) for step in script if step.kind == "type")
    ports = some_ports()
    if wants_one and not brings_its_own:
        home, ports = house()
        (tmp_path / ".wattmill").symlink_to(home)
    reader = Reader(tmp_path, ports)
    try:
        for step in script:
            reader.follow(step)
    finally:
        reader.leave()


def need_programs(script: list[Step]) -> None:
    """Skip a page whose programs this machine lacks, and say how to get them."""
    typed = " ".join(step.text for step in script if step.kind != "write")
    for program in ("curl", "openssl", "node"):
        if re.search(rf"\b{program}\b", typed) and shutil.which(program) is None:
            pytest.skip(f"needs {program}: scripts/system-packages.sh installs it")
    if "node_modules" in typed and not (ROOT / "tests/docs/node/node_modules/openai").is_dir():
        pytest.skip("needs the Node client: scripts/node-client.sh installs it")
