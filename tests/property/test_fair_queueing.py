"""The laws of admission: fair by work, first in first out for each tenant, nobody starves, no slot idles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from wattmill.scheduling.admission.fair import FairQueue
from wattmill.scheduling.admission.policy import Admission
from wattmill.scheduling.admission.spec import AdmissionRules, OwnTags, Ticket, TierRule

TIERS = (
    TierRule(name="free", rank=0, queue=10_000, timeout_s=1e9),
    TierRule(name="high", rank=1, queue=10_000, timeout_s=1e9),
    TierRule(name="premium", rank=2, queue=10_000, timeout_s=1e9),
)
RULES = AdmissionRules(tiers=TIERS)


class Slots:
    """Places with so many slots free."""

    def __init__(self, *free: int) -> None:
        self.left = list(free)

    def free(self, pools: Sequence[int], tier: int) -> bool:
        return any(self.left[pool] > 0 for pool in pools)

    def take(self, pools: Sequence[int]) -> int:
        pool = next(pool for pool in pools if self.left[pool] > 0)
        self.left[pool] -= 1
        return pool


def ticket(
    tenant: int, work: float = 1.0, *, tier: int = 0, pools: tuple[int, ...] = (0,), at: float = 0.0
) -> Ticket:
    return Ticket(tier=tier, tenant=tenant, pools=pools, work=work, at_s=at)


def filled(lines: dict[int, list[float]]) -> FairQueue:
    queue = FairQueue(0, OwnTags())
    numbers = itertools.count()
    for tenant, works in lines.items():
        for work in works:
            one = ticket(tenant, work)
            one.number = next(numbers)
            queue.put(one)
    return queue


works = st.lists(st.floats(0.5, 500.0), min_size=1, max_size=40)


@given(st.dictionaries(st.integers(1, 6), works, min_size=2))
def test_two_tenants_that_wait_all_the_while_differ_by_no_more_than_their_longest_requests(
    lines: dict[int, list[float]],
) -> None:
    queue = filled(lines)
    done = dict.fromkeys(lines, 0.0)
    left = {tenant: len(works) for tenant, works in lines.items()}
    while all(left.values()):  # all of them still wait
        went = queue.take()
        assert went is not None
        done[went.tenant] += went.work
        left[went.tenant] -= 1
        for a, b in itertools.combinations(lines, 2):
            assert abs(done[a] - done[b]) <= max(lines[a]) + max(lines[b]) + 1e-6


@given(st.dictionaries(st.integers(1, 6), works, min_size=1))
def test_each_tenant_is_served_in_the_order_of_its_arrivals_and_nobody_is_forgotten(
    lines: dict[int, list[float]],
) -> None:
    queue = filled(lines)
    order: dict[int, list[int]] = {tenant: [] for tenant in lines}
    while (went := queue.take()) is not None:
        order[went.tenant].append(went.number)
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert {tenant: len(numbers) for tenant, numbers in order.items()} == {
        tenant: len(works) for tenant, works in lines.items()
    }
    assert not queue.waiting and not queue.tenants


@given(st.integers(2, 200), st.floats(0.5, 50.0))
def test_a_newcomer_waits_for_one_request_of_each_other_tenant_however_greedy_they_are(
    backlog: int, work: float
) -> None:
    queue = filled({1: [work] * backlog, 2: [work] * backlog})
    for _ in range(backlog // 2):
        queue.take()
    late = ticket(3, work)
    late.number = 10_000
    queue.put(late)
    before = 0
    while (went := queue.take()) is not None and went is not late:
        before += 1
    assert before <= 2


def test_a_tenant_cannot_save_up_what_it_did_not_use() -> None:
    tags = OwnTags()
    queue = FairQueue(0, tags)
    numbers = itertools.count()

    def put(tenant: int) -> Ticket:
        one = ticket(tenant)
        one.number = next(numbers)
        queue.put(one)
        return one

    for _ in range(3):  # one asks and leaves at once, while another is served all the time
        queue.drop(put(1))
        for _ in range(20):
            put(2)
            queue.take()
    for _ in range(10):
        put(1), put(2)
    first = [queue.take().tenant for _ in range(10)]  # type: ignore[union-attr]
    assert 4 <= first.count(1) <= 6


moves = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "come", "leave", "free"]),
        st.integers(0, 2),  # tier
        st.integers(1, 4),  # tenant
        st.sampled_from([(0,), (1,), (0, 1)]),
        st.floats(0.5, 20.0),
    ),
    max_size=120,
)


@settings(max_examples=200)
@given(moves, st.sampled_from(["strict", "weighted"]))
def test_no_slot_is_free_while_somebody_waits_who_could_use_it(
    moves: list[tuple[str, int, int, tuple[int, ...], float]], between: str
) -> None:
    admission = Admission(AdmissionRules(tiers=TIERS, between=between))  # type: ignore[arg-type]
    slots = Slots(2, 1)
    held: list[int] = []
    waiting: list[Ticket] = []
    for now, (move, tier, tenant, pools, work) in enumerate(moves):
        if move == "come":
            one = ticket(tenant, work, tier=tier, pools=pools)
            assert admission.offer(one, float(now), slots) is None
            if one.state == "served":
                held.append(slots.take(one.pools))
            else:
                waiting.append(one)
        elif move == "leave" and waiting:
            admission.drop(waiting.pop(int(work) % len(waiting)), float(now))
        elif move == "free" and held:
            slots.left[held.pop()] += 1
        while (went := admission.next(float(now), slots)) is not None:
            waiting.remove(went)
            held.append(slots.take(went.pools))
        assert not any(slots.free(one.pools, one.tier) for one in waiting)
        assert admission.waiting == len(waiting) == sum(admission.counts().values())


@given(moves)
def test_a_higher_tier_never_waits_while_a_lower_one_goes_to_a_place_that_it_could_use(
    moves: list[tuple[str, int, int, tuple[int, ...], float]],
) -> None:
    admission = Admission(RULES)
    slots = Slots(0, 0)
    waiting: list[Ticket] = []
    for now, (move, tier, tenant, pools, work) in enumerate(moves):
        if move == "come":
            one = ticket(tenant, work, tier=tier, pools=pools)
            admission.offer(one, float(now), slots)
            if one.state == "waiting":
                waiting.append(one)
            else:
                slots.take(one.pools)
        elif move == "free":
            slots.left[int(work) % 2] += 1
            free = [pool for pool in (0, 1) if slots.left[pool]]
            went = admission.next(float(now), slots)
            if went is None:
                assert not [w for w in waiting if set(w.pools) & set(free)]
                continue
            assert went.tier == max(w.tier for w in waiting if set(w.pools) & set(free))
            waiting.remove(went)
            slots.take(went.pools)


def test_tiers_that_share_by_weight_get_their_shares() -> None:
    tiers = (
        TierRule(name="free", rank=0, weight=1.0, queue=10_000, timeout_s=1e9),
        TierRule(name="premium", rank=1, weight=3.0, queue=10_000, timeout_s=1e9),
    )
    admission = Admission(AdmissionRules(tiers=tiers, between="weighted"))
    for n in range(400):
        admission.offer(ticket(1 + n % 5, tier=n % 2), 0.0, Slots(0))
    went = [admission.next(1.0, Slots(1)) for _ in range(100)]
    assert sum(one is not None and one.tier == 1 for one in went) == 75


@given(st.integers(1, 30), st.integers(2, 10))
def test_a_greedy_tenant_cannot_fill_the_queue_of_the_others(queue: int, others: int) -> None:
    rule = TierRule(name="free", rank=0, queue=queue, timeout_s=1e9)
    admission = Admission(AdmissionRules(tiers=(rule,)))
    none = Slots(0)
    for _ in range(3 * queue):
        admission.offer(ticket(99), 0.0, none)
    assert admission.waiting == queue
    for tenant in range(min(others, queue)):
        one = ticket(tenant)
        full = admission.offer(one, 0.0, none)
        assert full is not None
        if one.state == "waiting":  # somebody of the greedy one gave way
            assert full.who.tenant == 99 and full.who.state == "gone"
        assert admission.waiting == queue
    if others < queue:
        assert sum(admission._of[0].get(tenant, 0) for tenant in range(others)) >= others - 1


def test_who_waits_longer_than_its_tier_allows_is_told_when_to_come_back() -> None:
    admission = Admission(AdmissionRules(tiers=(TierRule(name="free", rank=0, timeout_s=2.0),)))
    one, two = ticket(1, at=0.0), ticket(2, at=1.5)
    assert admission.offer(one, 0.0, Slots(0)) is None and admission.offer(two, 1.5, Slots(0)) is None
    assert admission.expire(1.9) == []
    (full,) = admission.expire(2.0)
    assert full.who is one and one.state == "gone" and full.retry_s >= 1
    assert admission.waiting == 1 and admission.next(2.1, Slots(1)) is two


def test_the_told_time_is_when_the_queue_ahead_has_gone_and_a_place_is_kept_for_who_comes_back_then() -> None:
    """One slot that serves one request a second; a queue may be waited in for 4 s."""
    admission = Admission(AdmissionRules(tiers=(TierRule(name="free", rank=0, queue=99, timeout_s=4.0),)))
    told: list[tuple[float, int]] = []
    served_back = refused_back = 0
    none = Slots(0)
    waits: dict[Ticket, float] = {}
    for tick in range(4_000):  # ten a second
        now = tick / 10
        if tick % 10 == 0 and (went := admission.next(now, Slots(1))) is not None:
            assert now - went.at_s <= 4.0
            served_back += waits.pop(went, None) is not None
        for full in admission.expire(now):
            refused_back += waits.pop(full.who, None) is not None
        while told and told[0][0] <= now:
            due, mark = told.pop(0)
            back = ticket(1, at=now)
            back.mark = mark
            if admission.offer(back, now, none) is None:
                waits[back] = due
            else:
                refused_back += 1
        if tick % 5 == 0:  # two come each second, where one is served
            fresh = ticket(1, at=now)
            fresh.mark = tick
            full_ = admission.offer(fresh, now, none)
            if full_ is not None and full_.retry_s < 120:
                told.append((now + full_.retry_s, tick))
                told.sort()
    assert served_back + refused_back > 100
    assert served_back / (served_back + refused_back) >= 0.95


@given(moves)
def test_the_same_calls_give_the_same_decisions(
    moves: list[tuple[str, int, int, tuple[int, ...], float]],
) -> None:
    def run() -> list[object]:
        admission = Admission(RULES)
        slots = Slots(1, 1)
        said: list[object] = []
        for now, (move, tier, tenant, pools, work) in enumerate(moves):
            if move == "come":
                one = ticket(tenant, work, tier=tier, pools=pools, at=float(now))
                said.append((admission.offer(one, float(now), slots), one.state))
            elif (went := admission.next(float(now), slots)) is not None:
                said.append((went.number, went.tenant))
        return [(repr(a), b) for a, b in said]  # type: ignore[misc]

    assert run() == run()


@settings(max_examples=60)
@given(
    better=st.integers(0, 200),
    tenants=st.integers(1, 6),
    every_s=st.floats(0.05, 2.0),
    timeout_s=st.floats(4.0, 20.0),
)
def test_a_tier_that_gets_nothing_any_more_is_not_told_to_come_back_soon(
    better: int, tenants: int, every_s: float, timeout_s: float
) -> None:
    """All slots go to higher tiers from some moment on, after `better` tenths of good seconds or from the
    first one on. Who is turned away later is told to stay away for longer, the longer nobody has gone."""
    rule = TierRule(name="free", rank=0, queue=1_000, timeout_s=timeout_s)
    admission = Admission(AdmissionRules(tiers=(rule,), longest_retry_s=600.0))
    slots = Slots(0)
    now_s = 0.0
    for number in range(better):  # ten a second go, while others wait
        now_s = number / 10
        admission.offer(ticket(number % tenants, at=now_s), now_s, slots)
        if number:
            slots.left[0] = 1
            gone = admission.next(now_s, slots)
            slots.left[0] = 0
            assert gone is not None
    still_s = now_s
    number = 0
    while now_s < still_s + 100.0:
        now_s += every_s
        number += 1
        newcomer = ticket(number % tenants, at=now_s)
        told = admission.offer(newcomer, now_s, slots)
        for full in (*admission.expire(now_s), *([told] if told is not None else [])):
            gap_s = now_s - still_s
            if gap_s > 2 * timeout_s:
                assert full.retry_s >= min(600.0, gap_s / 3 - timeout_s), (full.retry_s, gap_s)
