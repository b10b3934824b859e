from collections.abc import Callable, Mapping

import pytest

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
