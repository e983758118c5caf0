from hypothesis import given
from hypothesis import strategies as st

from wattmill.power.model import host_power_w, split_window
from wattmill.power.spec import HostPower

HOST = HostPower(idle_w=20.0, max_w=60.0, alpha=1.0, cores=2)


def test_a_half_busy_host_draws_half_of_its_dynamic_power():
    assert host_power_w(HOST, 0.5) == 40.0


def test_a_window_is_split_by_cpu_time_of_a_hand_calculation():
    # 2 s, 2 cores, 2 CPU s busy: u = 0.5, 40 W x 2 s = 80 J, of which 40 J idle; edge used half of the rest
    split = split_window(HOST, seconds=2.0, busy_cpu_s=2.0, cpu_s_by_owner={"edge": 1.0})
    assert (split.total_uj, split.idle_uj, split.shares_uj, split.other_uj) == (
        80_000_000,
        40_000_000,
        {"edge": 20_000_000},
        20_000_000,
    )


@given(
    st.floats(0.001, 100),
    st.floats(0, 1000),
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 100)),
    st.floats(0.3, 3.0),
)
def test_joules_are_conserved_to_the_microjoule(seconds, busy, owners, alpha):
    host = HostPower(idle_w=13.7, max_w=91.1, alpha=alpha, cores=3)
    split = split_window(host, seconds=seconds, busy_cpu_s=busy, cpu_s_by_owner=owners)
    assert split.total_uj == split.idle_uj + sum(split.shares_uj.values()) + split.other_uj
    assert min(split.idle_uj, split.other_uj, *split.shares_uj.values(), 0) >= 0
