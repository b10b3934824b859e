import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ur2.rollout.pool.seating import PlayAccount, WorkerAccount
from ur2.trainer.record.idle import Idleness, idle_fraction

POINTS = st.integers(-10, 60)
SPANS = st.lists(st.tuples(POINTS, POINTS).map(sorted).map(tuple), max_size=12)


def counted(spans, start, end):
    """The idle share by looking at each of the unit cells between `start` and `end`."""
    cells = [any(a <= cell < b for a, b in spans) for cell in range(start, end)]
    return 1 - sum(cells) / len(cells)


@given(spans=SPANS, start=st.integers(0, 30), length=st.integers(1, 30))
def test_the_idle_share_is_that_of_the_cells_of_a_grid_in_no_span(spans, start, length):
    share = idle_fraction(spans, start, start + length)
    assert share == pytest.approx(counted(spans, start, start + length))


@given(
    spans=st.lists(st.tuples(st.floats(-10, 60), st.floats(-10, 60)).map(sorted), max_size=12),
    start=st.floats(0, 30),
    length=st.floats(0.001, 30),
)
@example(spans=[(2.7, 2.7)], start=1.8, length=1.6)
def test_no_rounding_takes_a_share_out_of_its_bounds(spans, start, length):
    assert 0.0 <= idle_fraction(spans, start, start + length) <= 1.0


@given(wall_s=st.floats(1e-6, 1e5), num_workers=st.integers(1, 60))
def test_workers_that_are_always_busy_are_never_idle(wall_s, num_workers):
    workers = (WorkerAccount(busy_s=wall_s),) * num_workers
    share = PlayAccount(wall_s=wall_s, workers=workers).idle_fraction
    assert 0.0 <= share <= math.ulp(1.0) * num_workers


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@given(
    searches=SPANS,
    calls=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=8),
)
def test_searches_that_are_told_late_count_all_the_same_and_no_time_counts_twice(searches, calls):
    """At each call those searches have been told of that began before the time known so far."""
    clock = Clock()
    idleness, idle, covered, told = Idleness(clock), 0.0, 0, set()
    for step, lag in calls:
        clock.now_s += step
        known = max(covered, int(clock.now_s) - lag)
        for number, (start, end) in enumerate(searches):
            if number not in told and (start < known or number % 2):
                told.add(number)
                idleness.add("retrieval", start, end)
        shares = idleness.take(known)
        assert ("idle/retrieval" in shares) == (known > covered)
        idle += shares.get("idle/retrieval", 0.0) * (known - covered)
        covered = known
    if covered:
        assert idle == pytest.approx(counted(searches, 0, covered) * covered)


def test_any_rank_at_work_is_a_trainer_at_work_and_other_lanes_are_neither():
    clock = Clock()
    idleness = Idleness(clock)
    idleness.add("policy rank 0", 1.0, 3.0)
    idleness.add("policy rank 1", 2.0, 4.0)
    idleness.add("rollout worker 0", 0.0, 10.0)
    idleness.add("loop", 0.0, 10.0)
    clock.now_s = 10.0
    assert idleness.take(10.0) == {"idle/trainer": 0.7, "idle/retrieval": 1.0}
    clock.now_s = 12.0
    idleness.add("policy rank 0", 9.0, 11.0)  # the part before the last call was that call's
    assert idleness.take(12.0) == {"idle/trainer": 0.5, "idle/retrieval": 1.0}


def test_no_time_has_no_share():
    assert Idleness(Clock()).take(5.0) == {}
