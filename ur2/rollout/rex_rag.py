"""REX-RAG (arXiv 2508.08149): where an answer is wrong, the policy is made to think again.

Of an answered, wrong sample a clone is made with probability `probability`: its last turn is cut
before the answer, one of some sentences follows, and the policy goes on. Of a group's clones the
`keep` likeliest under the policy are admitted. With α the share of clones in the group, each token
was drawn by (1 − α)·π + α·μ (section 3.3):

    μ of the policy's own samples is 0;
    of an injected token: 1 for the first, then how often it follows its predecessors among the
    sentences;
    of a clone's token before the injection, at position j of the response: π / e^(1/j), e the share
    of the group's own samples that are wrong; after it: π.

Departures:
1. α, e and the number that is kept are of the group; published, of a batch of 2,560 trajectories,
   with a moving average of the kept clones' accuracy, which makes a step depend on the one before.
2. e is at least 0.05, by which the published code divides.
3. The turn that is cut counts among the turns; the sentences are this project's own.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ur2.environments.base import Branch, Piece
from ur2.options import Options
from ur2.types import Author, Sample, ScoredGroup, Segment, Status, Trajectory, version_runs

if TYPE_CHECKING:
    from ur2.rollout.exploration import Policy, Texts

MIN_ERROR = 0.05
SENTENCES = (
    "<think> That does not seem right. Let me look at it again.",
    "<think> Before I answer, I should check the fact that it rests on.",
    "<think> I may have missed something. What do I still need to know?",
    "<think> Let me try another way to find this out.",
    "<think> I am not certain of that. A further search could help.",
    "<think> Let me take the question apart once more, step by step.",
    "<think> Another source may say more. What should I ask for?",
    "<think> I should compare what was found with the question.",
)


class RexRagOptions(Options):
    """When a sample is cloned, and with which words."""

    probability: float = Field(20 / 101, ge=0, le=1)
    """How likely a wrong sample is cloned."""
    keep: int = Field(1, ge=1)
    """Clones of a group that are trained on, the likeliest under the policy first."""
    answer_marker: str = Field("<answer>", min_length=1)
    """Where a turn is cut: before the last of these."""
    sentences: tuple[str, ...] = Field(SENTENCES, min_length=1)
    """The words to go on with, drawn uniformly."""


class RexRag:
    """The explorer."""

    Options: ClassVar = RexRagOptions

    def __init__(self, options: RexRagOptions, texts: "Texts") -> None:
        self._options = options
        self._texts = texts
        self._sentences = [texts.encode(sentence) for sentence in options.sentences]

    def branches(self, scored: ScoredGroup, rng: np.random.Generator) -> list[Branch]:
        """A clone of some of the samples that answered wrongly."""
        found = []
        for trajectory, score in zip(scored.group.trajectories, scored.scores, strict=True):
            is_wrong = trajectory.status is Status.ANSWERED and score.correct < 1
            drawn, sentence = rng.random(), rng.choice(list(self._options.sentences))
            kept = self._before_answer(trajectory) if is_wrong else ()
            if kept and drawn < self._options.probability:
                inject = Piece(before=str(sentence), author=Author.INJECTED)
                events = trajectory.events
                found.append(
                    Branch(parent=trajectory.id, segments=kept, events=events, inject=inject)
                )
        return found

    async def admit(self, scored: ScoredGroup, more: ScoredGroup, models: "Policy") -> ScoredGroup:
        """The group with its likeliest clones, whose injected tokens state their probability."""
        pairs = [
            (clone, score)
            for clone, score in zip(more.group.trajectories, more.scores, strict=True)
            if clone.status is not Status.TOOL_FAILED and _is_injected(clone)
        ]
        if not pairs:
            return scored
        asked = [_asking(clone) for clone, _ in pairs]
        found = await models.logprobs(asked)
        of_policy = [logprobs[sample.mask] for logprobs, sample in zip(found, asked, strict=True)]
        order = sorted(range(len(pairs)), key=lambda place: -float(of_policy[place].mean()))
        kept = order[: self._options.keep]
        share = len(kept) / (len(scored.scores) + len(kept))
        clones = [self._stated(pairs[place][0], of_policy[place], share) for place in kept]
        group = scored.group
        return ScoredGroup(
            group=replace(group, trajectories=(*group.trajectories, *clones)),
            scores=(*scored.scores, *(pairs[place][1] for place in kept)),
        )

    def behaviour(self, sample: Sample) -> NDArray[np.float32]:
        """log[(1 − α)·π + α·μ] of each token, (T,); that of injected ones is in the sample."""
        explored = sample.explored
        if explored is None:
            return sample.sampler_logprobs
        drawn = sample.sampler_logprobs.astype(np.float64)
        log_mu = np.full(len(drawn), -np.inf)
        if explored.is_branch and explored.injected.any():
            place = np.arange(len(drawn))
            position = np.maximum(place - explored.num_prompt_tokens + 1, 1)
            raised = drawn - math.log(max(explored.share_wrong, MIN_ERROR)) / position
            is_before = place < np.flatnonzero(explored.injected)[0]
            log_mu = np.where(is_before, np.minimum(raised, 0.0), drawn)
        mixed = mixture(drawn, log_mu, explored.share_branched)
        return np.where(explored.injected, drawn, mixed).astype(np.float32)

    def _before_answer(self, trajectory: Trajectory) -> tuple[Segment, ...]:
        """The record up to the answer of its last turn; empty where there is no marker."""
        last = max(i for i, s in enumerate(trajectory.segments) if s.author is Author.POLICY)
        turn = trajectory.segments[last]
        place = turn.text.rfind(self._options.answer_marker)
        if place < 0:
            return ()
        size = len(turn.token_ids)
        while size and len(self._texts.decode(turn.token_ids[:size])) > place:
            size -= 1
        cut = replace(
            turn,
            token_ids=turn.token_ids[:size],
            text=self._texts.decode(turn.token_ids[:size]),
            logprobs=turn.logprobs[:size],
            weight_versions=version_runs(
                [run.version for run in turn.weight_versions for _ in range(run.num_tokens)][:size]
            ),
            reward=0.0,
        )
        return (*trajectory.segments[:last], *((cut,) if size else ()))

    def _stated(
        self, clone: Trajectory, of_policy: NDArray[np.float32], share: float
    ) -> Trajectory:
        """The clone, whose injected tokens have the probability by which the mixture drew them."""
        injected = next(s for s in clone.segments if s.author is Author.INJECTED)
        ids = injected.token_ids
        log_mu = np.asarray([self._log_mu(ids, place) for place in range(len(ids))])
        logprobs = tuple(map(float, mixture(of_policy.astype(np.float64), log_mu, share)))
        segments = tuple(
            replace(s, logprobs=logprobs) if s is injected else s for s in clone.segments
        )
        return replace(clone, segments=segments)

    def _log_mu(self, token_ids: Sequence[int], place: int) -> float:
        """How often a token follows its predecessors among the sentences; 1 for the first."""
        if place == 0:
            return 0.0
        begun = [s for s in self._sentences if s[:place] == tuple(token_ids[:place])]
        same = sum(s[place : place + 1] == (token_ids[place],) for s in begun)
        return math.log(same / len(begun)) if same else 0.0


def mixture(
    log_policy: NDArray[np.floating], log_mu: NDArray[np.floating], share: float
) -> NDArray[np.float64]:
    """log[(1 − α)·π + α·μ], elementwise."""
    found: NDArray[np.float64] = np.logaddexp(
        math.log1p(-share) + log_policy, math.log(share) + log_mu, dtype=np.float64
    )
    return found


def _is_injected(clone: Trajectory) -> bool:
    """Whether the words found room in it."""
    return any(s.author is Author.INJECTED and s.token_ids for s in clone.segments)


def _asking(clone: Trajectory) -> Sample:
    """A sample that asks the policy for the injected tokens alone."""
    context = next(c for c in clone.contexts if any(s.author is Author.INJECTED for s in c))
    token_ids = np.asarray([t for s in context for t in s.token_ids], dtype=np.int64)
    mask = np.asarray([s.author is Author.INJECTED for s in context for _ in s.token_ids])
    zeros = np.zeros(len(token_ids), dtype=np.float32)
    return Sample(
        id=clone.id, token_ids=token_ids, mask=mask, advantages=zeros, sampler_logprobs=zeros
    )
