from hypothesis import given
from hypothesis import strategies as st

from ur2.endpoints.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(2, 5.0, clock)
    breaker.failed()
    breaker.failed()
    return breaker


def test_failures_open_it_only_in_a_row() -> None:
    breaker = Breaker(2, 5.0)
    for _ in range(3):
        breaker.failed()
        breaker.succeeded()
    breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()


def test_one_caller_tries_after_each_rest_even_if_an_earlier_one_never_reports() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = 5.0
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    clock.now_s = 10.0
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.failed()
    clock.now_s = 14.9
    assert not breaker.admits()
    clock.now_s = 15.0
    assert breaker.admits()
    breaker.succeeded()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


@given(st.lists(st.floats(0, 3), max_size=60))
def test_a_dead_service_is_tried_at_most_once_per_rest(pauses_s: list[float]) -> None:
    clock = Clock()
    breaker = opened(clock)
    trials_s = []
    for pause_s in pauses_s:
        clock.now_s += pause_s
        if breaker.admits():
            trials_s.append(clock.now_s)
            breaker.failed()
    gaps_s = [later - earlier for earlier, later in zip([0.0, *trials_s], trials_s, strict=False)]
    assert all(gap_s >= 5.0 - 1e-9 for gap_s in gaps_s)
