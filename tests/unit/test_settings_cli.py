"""`wattmill init`, `config` and `doctor`, as a person runs them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from wattmill.app import checkup, disk_checkup
from wattmill.app.declared.declaration import Loaded, decode, example_text, load
from wattmill.app.declared.settings import Settings
from wattmill.app.finding import Finding
from wattmill.app.home import Home
from wattmill.app.running import start
from wattmill.power.live.ladder import ladder

SECRET = "sk-live-0123456789abcdef"


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wattmill", *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_init_writes_an_example_that_checks(tmp_path: Path):
    assert run(tmp_path, "init").returncode == 0
    assert (tmp_path / "wattmill.toml").read_text(encoding="utf-8") == example_text()
    checked = run(tmp_path, "config", "check")
    assert checked.returncode == 0
    assert "wattmill.toml: right" in checked.stdout


def test_init_leaves_a_file_that_is_there_unless_forced(tmp_path: Path):
    mine = tmp_path / "wattmill.toml"
    mine.write_text("# mine\n", encoding="utf-8")
    refused = run(tmp_path, "init")
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert mine.read_text(encoding="utf-8") == "# mine\n"
    assert run(tmp_path, "init", "--force").returncode == 0
    assert mine.read_text(encoding="utf-8") == example_text()


def test_check_ends_with_1_and_names_what_is_wrong(tmp_path: Path):
    (tmp_path / "x.toml").write_text(example_text().replace("workers", "wrokers"), encoding="utf-8")
    checked = run(tmp_path, "config", "check", "x.toml")
    assert checked.returncode == 1
    assert "Did you mean `workers`?" in checked.stderr
    told = msgspec.json.decode(run(tmp_path, "config", "check", "x.toml", "--json").stdout)
    assert told["ok"] is False
    assert told["problems"][0]["key"] == "gateway.wrokers"


def test_show_tells_where_each_value_comes_from_and_no_secret(tmp_path: Path):
    (tmp_path / "wattmill.toml").write_text(example_text(), encoding="utf-8")
    shown = run(tmp_path, "config", "show", "--json", OPENAI_API_KEY=SECRET)
    rows = {row["key"]: row for row in msgspec.json.decode(shown.stdout)}
    assert rows["gateway.port"] == {"key": "gateway.port", "value": 8686, "origin": "file"}
    assert rows["journal.sync_ms"]["origin"] == "default"
    assert rows["pools.cloud.key"] == {"key": "pools.cloud.key", "value": "present", "origin": "derived"}
    assert SECRET not in shown.stdout + shown.stderr
    assert SECRET not in run(tmp_path, "config", "show", OPENAI_API_KEY=SECRET).stdout


def test_schema_prints_a_schema(tmp_path: Path):
    schema = msgspec.json.decode(run(tmp_path, "config", "schema").stdout)
    assert "pools" in schema["$defs"]["Settings"]["required"]


def test_doctor_says_what_is_modelled_and_leaves_nothing_behind(tmp_path: Path):
    ports = example_text().replace("port = 8686", "port = 0").replace("port = 8687", "port = 0")
    (tmp_path / "wattmill.toml").write_text(ports, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    told = run(tmp_path, "doctor", "--json", OPENAI_API_KEY=SECRET)
    findings = {f["what"]: f for f in msgspec.json.decode(told.stdout)["findings"]}
    assert findings["joules"]["value"].startswith("modelled: idle 20 W, max 65 W")
    assert findings["key of cloud"]["verdict"] == "good"
    assert findings["file lock"]["verdict"] == "good"
    assert SECRET not in told.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_doctor_ends_with_1_when_the_declaration_is_wrong(tmp_path: Path):
    (tmp_path / "wattmill.toml").write_text("", encoding="utf-8")
    told = run(tmp_path, "doctor")
    assert told.returncode == 1
    assert "`pools` is missing" in told.stdout


# --- findings, each on a machine that we pretend to have ---------------------------------------------------


def found(home: Path, text: str | None = None) -> dict[str, Finding]:
    free = example_text().replace("port = 8686", "port = 0").replace("port = 8687", "port = 0")
    loaded = decode(text or free, file="wattmill.toml", folder=home, env={})
    assert isinstance(loaded, Loaded), [str(p) for p in loaded]
    return {finding.what: finding for finding in checkup.checkup(loaded.settings, home, {})}


def test_a_port_in_use_names_its_holder(tmp_path: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        text = example_text().replace("8686", str(port)).replace("port = 8687", "port = 0")
        finding = found(tmp_path, text)["gateway port"]
    assert finding.verdict == "bad"
    assert f"pid {os.getpid()}" in finding.value


def test_weights_that_are_not_there_say_how_to_fetch_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WATTMILL_MODELS", str(tmp_path / "nowhere"))
    finding = found(tmp_path)["weights of edge"]
    assert finding.verdict == "bad"
    assert "models pull" in finding.way_out


def test_weights_that_are_not_what_the_lock_pins_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WATTMILL_MODELS", str(tmp_path))
    (tmp_path / "smollm2-135m-instruct.q4_1.gguf").write_bytes(b"GGUF and something else")
    (tmp_path / "smollm2-135m-instruct.q4_0-from-q4_1.gguf").write_bytes(b"GGUF made here")
    findings = found(tmp_path)
    assert findings["weights of cloud"].verdict == "bad"
    assert findings["weights of edge"].verdict == "good"


def test_too_little_memory_says_how_to_need_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "_memory_bytes", lambda: (1 << 30, 300 << 20))
    assert found(tmp_path)["memory"].verdict == "poor"


def test_a_quota_below_the_affinity_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "_read", lambda path: "150000 100000" if path.endswith("cpu.max") else None)
    assert checkup.usable_cores() <= 1.5


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_checkup.os, "access", lambda *_: False)
    assert [line[2] for line in disk_checkup.disk(tmp_path)] == ["bad"]


@pytest.mark.parametrize(("kind", "verdict"), [("nfs4", "bad"), ("tmpfs", "poor"), ("ext4", "good")])
def test_the_file_system_under_the_books_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str
):
    monkeypatch.setattr(disk_checkup, "filesystem_of", lambda _: kind)
    assert next(iter(disk_checkup.disk(tmp_path)))[2] == verdict


def test_the_last_mount_over_a_folder_is_the_one_that_counts():
    assert disk_checkup.filesystem_of(Path("/proc/self")) == "proc"


def test_every_rung_that_cannot_be_read_says_why():
    for rung in ladder():
        assert rung.readable or rung.reason


def test_ports_that_are_taken_are_told_at_once_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_PATIENCE_S", 0.0)
    loaded = load(None, {})
    assert not isinstance(loaded, list)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        gateway, admin = (s.getsockname()[1] for s in (one, other))
        settings = msgspec.structs.replace(
            loaded.settings,
            gateway=msgspec.structs.replace(loaded.settings.gateway, port=gateway),
            admin=msgspec.structs.replace(loaded.settings.admin, port=admin),
        )
        told = start.port_in_the_way(settings)
    assert told is not None
    assert f"port {gateway} on" in told and f"port {admin} on" in told
    assert "wattmill up --port 0 --admin-port 0 lets the kernel choose" in told


def test_a_faulty_declaration_leaves_no_folder_behind(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.toml"
    faulty.write_text("x = 1\n")
    done = run(tmp_path, "up", "--config", str(faulty), "--home", "new")
    assert done.returncode == 2 and "nothing was started" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_reload_keeps_what_the_command_line_said(tmp_path: Path) -> None:
    """It asked for a restart to change ports that nobody had changed."""
    from wattmill.cli import up

    class Reloaded:
        problem: str | None = None
        settings: Settings

        def reload(self, loaded: Loaded) -> list[str]:
            self.settings = loaded.settings
            return []

    class Said:
        def note(self, text: str) -> None:
            assert text == "declaration taken over"

    file = tmp_path / "wattmill.toml"
    file.write_text(example_text())

    def over(loaded: Loaded) -> Loaded:
        return msgspec.structs.replace(loaded, settings=up._overridden(loaded.settings, 2, 0, 0))

    loaded = load(file, {})
    assert isinstance(loaded, Loaded)
    run = up._Run(Console(), Home(tmp_path / "home"), over(loaded), file, over=over, seconds=None, load=False)
    factory = Reloaded()
    run._take_over(factory, Said())  # type: ignore[arg-type]
    gateway, admin = factory.settings.gateway, factory.settings.admin
    assert (gateway.workers, gateway.port, admin.port) == (2, 0, 0)


def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    told = run(tmp_path, "up", "--home", "taken")
    assert told.returncode == 2
    assert told.stderr.strip().endswith("cannot be made: File exists; --home names another one")
    assert "\n" not in told.stderr.strip()
