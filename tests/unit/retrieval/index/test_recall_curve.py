from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.retrieval.index.recall_curve import Point, choose, ladder, plot, recall


def test_recall_is_the_share_of_what_is_nearest() -> None:
    found = np.array([[1, 2, 3], [9, -1, -1]])
    exact = np.array([[3, 2, 7], [9, 8, 7]])
    assert recall(found, exact) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_a_ladder_has_both_ends_and_steps_between() -> None:
    assert ladder(range(1, 20)) == [1, 2, 3, 4, 6, 8, 12, 16, 19]
    assert ladder(range(10, 25)) == [10, 12, 16, 24]
    assert ladder(range(1, 2)) == [1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60).map(sorted), st.floats(0.01, 1))
def test_the_narrowest_that_reaches_the_target_is_chosen(
    recalls: list[float], target: float
) -> None:
    def measure(breadth: int) -> Point:
        return Point(breadth, recalls[breadth - 1], 1.0)

    points, chosen = choose(measure, ladder(range(1, len(recalls) + 1)), target)
    enough = [b for b, r in enumerate(recalls, start=1) if r >= target]
    if enough:
        assert chosen.breadth == enough[0]
    else:
        assert chosen.recall == recalls[-1]
    assert [p.breadth for p in points] == sorted({p.breadth for p in points})
    assert chosen in points


def test_nothing_is_measured_past_near_perfect_recall() -> None:
    asked: list[int] = []

    def measure(breadth: int) -> Point:
        asked.append(breadth)
        return Point(breadth, 1.0 if breadth >= 8 else 0.5, 1.0)

    _, chosen = choose(measure, ladder(range(1, 1000)), 0.9)
    assert chosen.breadth == 8
    assert max(asked) == 8


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    points = [Point(1, 0.5, 1000), Point(2, 0.98, 400)]
    plot(points, points[1], 0.97, 10, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
