import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from wattmill.app.home import Home
from wattmill.app.running import children, home_lock, lifeline
from wattmill.app.running.children import Child, ChildSpec
from wattmill.app.running.engine_endpoints import EngineEndpoint, write_endpoints
from wattmill.app.running.start import end_leftovers, port_in_the_way
from wattmill.app.running.state import FactoryState, ProcessState, write_state
from wattmill.app.running.who_listens import free_port, holder_of, port_is_free

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child(tmp_path):
    child_end, keep_end = lifeline.make()
    made = []

    def make(argv, **changes) -> Child:
        made.append(Child(ChildSpec(role="c", argv=argv, **changes), logs=tmp_path, lifeline_fd=child_end))
        made[-1].start(now_s=time.monotonic(), wall_us=0)
        return made[-1]

    yield make
    for one in made:
        one.stop(2.0)
    os.close(child_end)
    os.close(keep_end)


def until(condition, seconds=5.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)


def tend(child: Child) -> None:
    child.tend(now_s=time.monotonic(), wall_us=0)


def test_a_huge_log_makes_room_when_its_process_starts_again(child, tmp_path, monkeypatch):
    monkeypatch.setattr(children, "LOG_MOST_BYTES", 100)
    log = tmp_path / "c.log"
    log.write_bytes(b"x" * 101)
    child([sys.executable, "-c", "print('again', flush=True)"])
    until(lambda: log.read_bytes() == b"again\n")
    assert (tmp_path / "c.log.1").stat().st_size == 101


def test_a_killed_child_is_restarted_and_says_how_it_ended(child):
    one = child(SLEEPER)
    first = one.pid
    os.kill(first, signal.SIGKILL)

    def again():
        tend(one)
        return one.pid not in (None, first)

    until(again)
    assert (one.restarts, one.last_exit) == (1, "signal SIGKILL")


def test_a_child_that_always_crashes_is_restarted_ever_more_slowly(child):
    one = child([sys.executable, "-c", "raise SystemExit(3)"])
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        tend(one)
        time.sleep(0.01)
    assert 2 <= one.restarts <= 5
    assert one.last_exit == "exit code 3"


def test_a_child_is_starting_until_its_probe_says_ready(child):
    answers = iter([False, True])
    one = child(SLEEPER, ready=lambda: next(answers))
    assert one.state().state == "starting"
    tend(one)
    assert one.state().state == "starting"
    tend(one)
    assert one.state().state == "up"


def test_no_child_outlives_a_killed_supervisor(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "from wattmill.app.running import lifeline\n"
        "child_end, keep = lifeline.make()\n"
        "code = 'from wattmill.app.running import lifeline; lifeline.arm(); import time; '\\\n"
        "  'print(1, flush=True); time.sleep(60)'\n"
        "import os\n"
        "p = subprocess.Popen([sys.executable, '-c', code], pass_fds=(child_end,),"
        " env={**os.environ, **lifeline.child_env(child_end)}, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def test_one_factory_per_folder_and_the_refusal_says_who(tmp_path):
    home = Home(tmp_path)
    me = home_lock.Holder(pid=4711, since="noon", command="wattmill up")
    lock = home_lock.HomeLock(home)
    assert home_lock.running(home) is None
    assert lock.take(me) is None
    assert home_lock.HomeLock(home).take(me) == me
    assert home_lock.running(home) == me
    lock.release()
    assert home_lock.running(home) is None


def test_a_taken_port_is_named_with_its_holder():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        assert holder_of(port).startswith(f"pid {os.getpid()} (")
    assert port_is_free("127.0.0.1", port)


def test_start_refuses_a_taken_port_and_says_the_way_out(example_settings):
    import msgspec

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        gateway = msgspec.structs.replace(example_settings.gateway, port=port)
        settings = msgspec.structs.replace(
            example_settings,
            gateway=gateway,
            admin=msgspec.structs.replace(example_settings.admin, port=free_port()),
        )
        message = port_in_the_way(settings)
    assert message is not None
    assert f"port {port}" in message
    assert f"pid {os.getpid()}" in message
    assert "--port 0" in message


@pytest.mark.parametrize("port", [0, 8686])
def test_an_address_of_another_machine_is_not_said_to_be_held_by_a_program(example_settings, port):
    import msgspec

    gateway = msgspec.structs.replace(example_settings.gateway, host="192.0.2.1", port=port)
    admin = msgspec.structs.replace(example_settings.admin, port=free_port())
    message = port_in_the_way(msgspec.structs.replace(example_settings, gateway=gateway, admin=admin))
    assert message == (
        f"[gateway] port {port} on 192.0.2.1 cannot be had: this machine has no such address. "
        "Declare an address of this machine, such as 127.0.0.1."
    )


@pytest.fixture
def example_settings():
    from wattmill.app.declared.declaration import Loaded, load

    loaded = load(None, {})
    assert isinstance(loaded, Loaded)
    return loaded.settings


def _words(pid) -> list[bytes]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")


def test_what_outlived_its_supervisor_is_ended_and_nobody_else(tmp_path):
    home = Home(tmp_path)
    home.create()
    stranger = subprocess.Popen(SLEEPER)
    worker = [*SLEEPER, "wattmill.app.worker", "--home"]
    ours = subprocess.Popen([*worker, str(tmp_path)])
    other_factory = subprocess.Popen([*worker, str(tmp_path / "other")])  # a number can be given anew
    engine = [*SLEEPER, "wattmill.models.engines.embedded_server"]
    our_engine = subprocess.Popen(engine, env={**os.environ, "WATTMILL_ENGINE_KEY": "k1"})
    other_engine = subprocess.Popen(engine, env={**os.environ, "WATTMILL_ENGINE_KEY": "k2"})
    write_endpoints(home, {"edge": EngineEndpoint(port=1, key="k1")})
    for process in (ours, our_engine):  # as init would, so that it is no zombie
        threading.Thread(target=process.wait, daemon=True).start()
    processes = [
        ProcessState(role=r, pid=p.pid, since_us=0, restarts=0, state="up")
        for r, p in (
            ("x", stranger),
            ("gateway-0", ours),
            ("gateway-1", other_factory),
            ("engine-edge", our_engine),
            ("engine-local", other_engine),
        )
    ]
    write_state(
        home,
        FactoryState(
            name="f",
            supervisor_pid=0,
            started_us=0,
            at_us=0,
            gateway_url="",
            admin_url="",
            workers=1,
            processes=processes,
            places=[],
        ),
    )
    until(lambda: all(p.args[-1].encode() in _words(p.pid) for p in (ours, our_engine)))  # exec is done
    assert end_leftovers(home) == [ours.pid, our_engine.pid]
    until(lambda: not _alive(ours.pid) and not _alive(our_engine.pid))
    for process in (stranger, other_factory, other_engine):
        assert _alive(process.pid)
        process.kill()
        process.wait()
