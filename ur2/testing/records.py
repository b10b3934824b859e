"""Questions and assignments with as little said as a test wants to say."""

from typing import Any

from ur2.types import Assignment, Level, Question, Task

_GOLDS: dict[Task, tuple[str, ...]] = {"qa": ("Paris",), "math": ("2",), "choice": ("A",)}


def make_question(task: Task = "qa", **fields: Any) -> Question:
    """A question of a task, with some of its fields given."""
    options = ("Paris", "Rome", "No", "Bern") if task == "choice" else ()
    given: dict[str, Any] = {
        "id": "q",
        "text": "Where?",
        "answers": _GOLDS[task],
        "options": options,
        "level": Level.EASY,
        **fields,
    }
    return Question(task=task, **given)


def make_assignment(
    question: Question | None = None, *, retrieval: bool = True, id: str = "0-0"
) -> Assignment:
    """An assignment of a question."""
    return Assignment(
        id=id,
        question=question or make_question(),
        retrieval=retrieval,
        reason="test",
        step=0,
    )
