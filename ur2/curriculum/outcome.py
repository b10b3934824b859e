"""The result of a played group as the curriculum sees it: no texts and no tokens."""

from dataclasses import dataclass
from typing import Self

from ur2.types import Question, ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """How the samples of one assignment did, without those whose tools failed."""

    question: Question
    retrieval: bool
    step: int
    """The step that it was drawn for."""
    num_samples: int
    num_correct: float
    """The sum of graded correctness, each in [0, 1]."""
    num_searches: int
    """Searches that reached the retriever, of all samples."""
    reward: float
    """The mean reward."""

    @classmethod
    def of(cls, played: ScoredGroup) -> Self | None:
        """The outcome of a scored group; None where each of its samples met a tool that failed."""
        scored = played.of_policy
        assignment, scores = scored.group.assignment, scored.scores
        if not scores:
            return None
        return cls(
            question=assignment.question,
            retrieval=assignment.retrieval,
            step=assignment.step,
            num_samples=len(scores),
            num_correct=sum(score.correct for score in scores),
            num_searches=sum(t.num_searches for t in scored.group.trajectories),
            reward=sum(score.total for score in scores) / len(scores),
        )

    @property
    def pass_rate(self) -> float:
        """The mean correctness of the samples."""
        return self.num_correct / self.num_samples
