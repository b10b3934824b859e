"""Accuracy and searches on held-out questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ur2.errors import ComponentError
from ur2.rewards.rubric import Rubric
from ur2.rollout.options import SamplingOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.trainer.record.metrics import accuracy_by_bucket, searches_by_bucket
from ur2.types import Assignment, Question, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The policy's results on held-out questions, one sample each.

    Questions whose tools failed are in the searches, and in no accuracy.
    """

    accuracy: float
    """Mean over questions."""
    accuracy_by_bucket: dict[str, float]
    searches_by_bucket: dict[str, float]
    """Mean searches per question."""
    num_questions: int
    """Questions that the accuracy is of."""

    @classmethod
    def of(cls, groups: Sequence[ScoredGroup]) -> "Evaluation":
        """Aggregates scored groups.

        Raises:
            ComponentError: tools failed for every question.
        """
        correct = [score.correct for group in groups for score in group.of_policy.scores]
        if not correct:
            raise ComponentError(
                "tools failed for every held-out question, which measures nothing: see that the "
                "retrieval service answers"
            )
        return cls(
            accuracy=fmean(correct),
            accuracy_by_bucket=accuracy_by_bucket(groups),
            searches_by_bucket=searches_by_bucket(groups),
            num_questions=len(correct),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for summary.json and checkpoints."""
        return {name: getattr(self, name) for name in self.__slots__}

    def metrics(self) -> dict[str, float]:
        """The same numbers as metrics."""
        return {
            "eval/accuracy": self.accuracy,
            **{f"eval/accuracy/{k}": v for k, v in self.accuracy_by_bucket.items()},
            **{f"eval/search/per_question/{k}": v for k, v in self.searches_by_bucket.items()},
        }


async def evaluate(
    rollouts: RolloutPool,
    rubric: Rubric,
    questions: Sequence[Question],
    sampling: SamplingOptions,
    *,
    step: int,
    retrieval: Callable[[Question], bool],
    on_group: Callable[[], None] = lambda: None,
) -> list[ScoredGroup]:
    """Answers every question once and scores the answers.

    Args:
        rollouts: where the episodes run.
        rubric: scores them.
        questions: held-out ones.
        sampling: temperature and the like.
        step: the training step, which names the episodes.
        retrieval: whether the episodes of a question may search.
        on_group: called after each question, for progress.
    """
    assignments = [
        Assignment(
            id=f"eval-{step:06d}-{position:06d}",
            question=question,
            retrieval=retrieval(question),
            reason="evaluation",
            step=step,
        )
        for position, question in enumerate(questions)
    ]
    groups = await rollouts.collect(assignments, 1, sampling, on_group=lambda _: on_group())
    return await rubric.score_all(groups, step)
