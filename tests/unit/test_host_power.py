import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattmill.app.running.clock import LiveClock
from wattmill.app.running.sampler import EngineTarget, Sampler
from wattmill.power.live.cpu import CpuWatch, Processes
from wattmill.power.model import host_power_w, split_window
from wattmill.power.spec import HostPower

HOST = HostPower(idle_w=20.0, max_w=60.0, alpha=1.0, cores=2)


def test_a_half_busy_host_draws_half_of_its_dynamic_power():
    assert host_power_w(HOST, 0.5) == 40.0


def test_a_window_is_split_by_cpu_time_of_a_hand_calculation():
    # 2 s, 2 cores, 2 CPU s busy: u = 0.5, 40 W x 2 s = 80 J, of which 40 J idle; of the other 40 J edge used
    # half, the factory's own processes a quarter, somebody else the rest
    split = split_window(HOST, seconds=2.0, busy_cpu_s=2.0, cpu_s_by_owner={"edge": 1.0}, service_cpu_s=0.5)
    assert (split.total_uj, split.idle_uj, split.shares_uj) == (80_000_000, 40_000_000, {"edge": 20_000_000})
    assert (split.service_uj, split.foreign_uj, split.other_uj) == (10_000_000, 10_000_000, 0)


def test_what_nobody_counted_when_a_process_died_is_nobodys():
    split = split_window(
        HOST, seconds=2.0, busy_cpu_s=2.0, cpu_s_by_owner={"edge": 1.0}, service_cpu_s=0.5, rest_known=False
    )
    assert (split.foreign_uj, split.other_uj) == (0, 10_000_000)


def test_a_process_that_died_keeps_its_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, cpu = [10.0], {7: 4.0, 8: 1.0}
    monkeypatch.setattr("wattmill.power.live.cpu.host_busy_s", lambda: busy[0])
    monkeypatch.setattr("wattmill.power.live.cpu.process_cpu_s", lambda pid: cpu.get(pid))
    watch = CpuWatch()
    assert watch.read(Processes({"edge": 7}, (8,))) is None
    busy[0], cpu[8] = 12.0, 1.25
    del cpu[7]  # killed and reaped within the window, after 0.5 s more; its successor has used 0.25 s
    cpu[9] = 0.25
    use = watch.read(Processes({"edge": 9}, (8,), {7: 4.5}))
    assert use is not None and use == (2.0, {"edge": 0.75}, 0.25, True)
    del cpu[9]
    gone = watch.read(Processes({"edge": 9}, (8,)))
    assert gone is not None and not gone.rest_known, "nobody counted its last moments"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded host
@given(
    st.floats(0.001, 100),
    st.floats(0, 1000),
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 100)),
    st.floats(0.3, 3.0),
    st.floats(0, 50),
    st.booleans(),
)
def test_joules_are_conserved_to_the_microjoule(seconds, busy, owners, alpha, service, known):
    host = HostPower(idle_w=13.7, max_w=91.1, alpha=alpha, cores=3)
    split = split_window(
        host, seconds=seconds, busy_cpu_s=busy, cpu_s_by_owner=owners, service_cpu_s=service, rest_known=known
    )
    parts = (*split.shares_uj.values(), split.service_uj, split.foreign_uj, split.other_uj)
    assert split.total_uj == split.idle_uj + sum(parts)
    assert min(split.idle_uj, *parts) >= 0


def test_one_defect_does_not_end_the_only_witness(caplog: pytest.LogCaptureFixture) -> None:
    looked: list[int] = []
    written: list[object] = []

    def targets() -> list[EngineTarget]:
        looked.append(1)
        if len(looked) == 3:
            assert sampler.power is not None
            raise KeyError("a defect")
        return []

    class Paper:
        epoch = "1"

        def append_note(self, fact: object) -> bool:
            written.append(fact)
            return True

    sampler = Sampler(
        host=HostPower(),
        journal=Paper(),
        clock=LiveClock(),
        targets=targets,
        period_s=0.02,  # type: ignore[arg-type]
    )
    sampler.start()
    deadline = time.monotonic() + 5.0
    while len(looked) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sampler.is_alive()
    sampler.finish()
    assert len(looked) >= 6 and len(written) >= 3 and sampler.power is not None
    assert "a look at meters and counters failed" in caplog.text
