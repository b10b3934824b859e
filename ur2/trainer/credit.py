"""Credit: which contexts of a trajectory become training samples, and what reward each gets.

A trajectory's reward is its score's total. Of that, `Score.turns` is what each turn earned; the
rest is the whole trajectory's, and is earned at its last token.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ur2.errors import InputError, PluginError
from ur2.plugins import blaming, find
from ur2.types import Author, Score, Segment, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """One context, which becomes one sample."""

    segments: tuple[Segment, ...]
    reward: float
    """The reward to compare with the other samples of its group and role."""
    earned: tuple[float, ...]
    """Where: a value per segment, earned at its last token; they sum to `reward`."""

    @property
    def role(self) -> str:
        """The role that was asked."""
        return self.segments[0].role


CreditRule = Callable[[Trajectory, Score], tuple[Credited, ...]]


def credit_rule(name: str) -> CreditRule:
    """The rule of a name, or of an import path.

    Raises:
        InputError: there is none.
    """
    return find(name, CREDIT, key="algorithm.credit")


def credited(name: str, trajectory: Trajectory, score: Score) -> tuple[Credited, ...]:
    """The samples of a trajectory by the rule of a name, or of an import path.

    Raises:
        InputError: there is no such rule, or it is not for such trajectories.
        PluginError: it raised, or gave what are no samples of tokens that somebody drew.
    """
    what = f"algorithm.credit '{name}' on trajectory '{trajectory.id}'"
    with blaming(what):
        found = tuple(credit_rule(name)(trajectory, score))
        for number, one in enumerate(found):
            if breach := _breach(one):
                raise PluginError(f"{what}: sample {number} {breach}")
    return found


def _breach(one: Credited) -> str:
    """The first thing that is wrong with a sample; empty where nothing is."""
    if not isinstance(one, Credited):
        return f"is {one!r:.80}, no Credited"
    if not one.segments or not one.segments[0].token_ids:
        return "has nothing to begin with: its first segment holds no tokens"
    if len(one.earned) != len(one.segments):
        return f"has {len(one.earned)} values in `earned` for {len(one.segments)} segments"
    if not math.isclose(sum(one.earned), one.reward, rel_tol=1e-6, abs_tol=1e-6):  # nan is not
        return f"has the reward {one.reward}, and {sum(one.earned)} in `earned`"
    if any(s.is_trained and len(s.logprobs) != len(s.token_ids) for s in one.segments):
        return "trains tokens whose log-probabilities nobody stated"
    return ""


def whole(trajectory: Trajectory, score: Score) -> tuple[Credited, ...]:
    """The trajectory as one sample.

    Raises:
        InputError: it has several contexts.
    """
    if len(trajectory.contexts) > 1:
        raise InputError(
            f"trajectory '{trajectory.id}' has {len(trajectory.contexts)} contexts, which "
            "algorithm.credit=trajectory cannot make one sample of; set it to context or shared"
        )
    return by_context(trajectory, score)


def by_context(trajectory: Trajectory, score: Score) -> tuple[Credited, ...]:
    """A sample per context, with what its turns earned; the rest is the last one's."""
    turns = iter(score.turns or (0.0,) * len(trajectory.policy_texts))
    contexts = trajectory.contexts
    earned = [
        [next(turns) if segment.author is Author.POLICY else 0.0 for segment in context]
        for context in contexts
    ]
    if contexts:
        earned[-1][_last(contexts[-1])] += score.total - sum(score.turns)
    return tuple(
        Credited(segments=context, reward=sum(values), earned=tuple(values))
        for context, values in zip(contexts, earned, strict=True)
    )


def shared(trajectory: Trajectory, score: Score) -> tuple[Credited, ...]:
    """A sample per context, each with the trajectory's reward at its last token."""
    return tuple(
        Credited(
            segments=context,
            reward=score.total,
            earned=tuple(
                score.total if place == _last(context) else 0.0 for place in range(len(context))
            ),
        )
        for context in trajectory.contexts
    )


def last_tries(trajectory: Trajectory, score: Score) -> tuple[Credited, ...]:
    """As by context, without turns that were asked for again: their prompt came once more."""
    credited = by_context(trajectory, score)
    following = [*(one.segments[0].token_ids for one in credited[1:]), None]
    pairs = zip(credited, following, strict=True)
    return tuple(one for one, then in pairs if one.segments[0].token_ids != then)


def _last(context: Sequence[Segment]) -> int:
    """The place of the last segment that the policy wrote; 0 where there is none."""
    return max((i for i, s in enumerate(context) if s.author is Author.POLICY), default=0)


def at_tokens(credited: Credited) -> list[float]:
    """The reward earned at each token, (T,); that of an empty turn is at the token before it."""
    earned_T: list[float] = []
    for segment, value in zip(credited.segments, credited.earned, strict=True):
        earned_T += [0.0] * len(segment.token_ids)
        earned_T[-1] += value
    return earned_T


CREDIT: Mapping[str, CreditRule] = {
    "trajectory": whole,
    "context": by_context,
    "last_tries": last_tries,
    "shared": shared,
}
