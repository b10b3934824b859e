from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from ur2.rollout.busy_time import BusyTime

STEPS = st.lists(st.tuples(st.sampled_from(["begin", "end", "take"]), st.integers(0, 5)))


@given(steps=STEPS)
def test_time_counts_once_while_anything_runs_and_belongs_to_one_reading(steps):
    now, busy, taken, running = 0, 0, [], []
    busy_time = BusyTime(lambda: float(now))
    for what, passed in steps:
        busy += passed if running else 0
        now += passed
        if what == "begin":
            running.append(ExitStack())
            running[-1].enter_context(busy_time.running())
        elif what == "end" and running:
            running.pop(0).close()
        elif what == "take":
            taken.append(busy_time.take_s())
            assert 0 <= taken[-1] <= now
    assert sum(taken) + busy_time.take_s() == busy
