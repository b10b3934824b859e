from collections.abc import Callable, Mapping

import pytest

from ur2.curriculum.outcome import GroupOutcome
from ur2.types import Level, Question


@pytest.fixture(scope="session")
def make_questions() -> Callable[[Mapping[str, int]], list[Question]]:
    """Questions by bucket and number."""

    def make(counts: Mapping[str, int]) -> list[Question]:
        return [
            Question(
                id=f"{bucket}#{i}",
                task=bucket.split("/")[0],
                text="?",
                answers=("!",),
                level=Level(bucket.split("/")[1]),
            )
            for bucket, count in counts.items()
            for i in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def make_outcome() -> Callable[..., GroupOutcome]:
    """An outcome of a group of 8: share solved, searches per sample."""

    def make(
        question, solved, *, retrieval=False, searches=0.0, step=1, reward=None
    ) -> GroupOutcome:
        return GroupOutcome(
            question=question,
            retrieval=retrieval,
            step=step,
            num_samples=8,
            num_correct=8 * solved,
            num_searches=round(8 * searches),
            reward=solved if reward is None else reward,
        )

    return make
