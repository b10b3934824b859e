"""R3-RAG's reward (arXiv 2505.23794): a retrieval is worth more in an episode that ends well.

With w the worth of a query step (its turn's own reward), rounded to three digits:

| the episode ends | query steps | last step |
|---|---|---|
| right | (1 + correct_bonus)·w | final |
| wrong | (1 − wrong_penalty)·w | 0 |
| without an answer after all its steps | (1 − fail_penalty)·w | as the others |
| with a step out of form | w | the turn's own reward |
"""

from collections.abc import Sequence
from typing import Literal

from ur2.options import Options
from ur2.types import Author, Question, Status, Trajectory


class StepsRewardOptions(Options):
    """The published constants."""

    variant: Literal["both", "outcome", "process"] = "both"
    """`outcome`: query steps get `final` where the answer is right, else 0; `process`: w alone."""
    final: float = 2.0
    """The last step's reward where the answer is right."""
    correct_bonus: float = 0.6
    wrong_penalty: float = 0.2
    fail_penalty: float = 0.1


class CasedMatchOptions(Options):
    """The answers that count."""

    as_published: bool = False
    """The first gold alone counts, as in the published training."""


def step_rewards(
    trajectory: Trajectory, grade: float, options: StepsRewardOptions
) -> Sequence[float]:
    """The reward of each turn."""
    worth = [s.reward for s in trajectory.segments if s.author is Author.POLICY]
    answered, right = trajectory.status is Status.ANSWERED, grade >= 1
    factor = 0.0 if options.variant == "outcome" else 1.0
    if options.variant == "both" and answered:
        factor += options.correct_bonus if right else -options.wrong_penalty
    elif options.variant == "both" and trajectory.status is Status.OUT_OF_TURNS:
        factor -= options.fail_penalty
    scaled = [round(factor * w, 3) if w > 0 else w for w in worth]
    if not answered:
        return scaled
    last = options.final if right else 0.0
    if options.variant == "outcome":
        return [last] * len(worth)
    return [*scaled[:-1], 0.0 if options.variant == "process" else last]


def cased_match(answer: str, question: Question, options: CasedMatchOptions) -> float:
    """1 where an answer, in some case and with or without dots, is a gold to the letter."""
    forms = (answer, answer.lower(), answer.upper(), answer.capitalize())
    golds = question.answers[: 1 if options.as_published else None]
    return float(any(form in golds or form.replace(".", "") in golds for form in forms))
