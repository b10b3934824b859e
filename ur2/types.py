"""The records that travel between stages. Frozen; nothing here imports a stage or a heavy library.

Shapes: a trajectory is a flat list of T tokens, cut into segments by author.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Task = Literal["choice", "qa", "math"]


class Level(StrEnum):
    """How hard a question is for the policy."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"
    VERY_HARD = "very_hard"


class Author(StrEnum):
    """The author of a segment. Only POLICY tokens carry loss."""

    PROMPT = "prompt"
    POLICY = "policy"
    ENVIRONMENT = "environment"
    INJECTED = "injected"


class Status(StrEnum):
    """How a trajectory ended."""

    ANSWERED = "answered"
    """The policy gave a final answer."""
    NO_ANSWER = "no_answer"
    """The policy ended its turn with neither a search nor an answer."""
    TRUNCATED = "truncated"
    """The token budget ran out."""
    OUT_OF_TURNS = "out_of_turns"
    """The policy was still searching when its turns ran out."""
    TOOL_FAILED = "tool_failed"
    """Retrieval, or another tool, failed past its retries, which the policy did not cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One task instance with everything needed to grade it."""

    id: str
    task: Task
    text: str
    answers: tuple[str, ...]
    """Accepted golds, at least one. For `choice` the letters of the right options."""
    level: Level
    options: tuple[str, ...] = ()
    """Option texts in letter order (A, B, ...), for `choice`."""
    subject: str = ""
    source: str = ""
    """The file it came from."""
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """The curriculum's unit: task x level, e.g. `qa/hard`."""
        return f"{self.task}/{self.level}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An order from the curriculum to the rollouts: one group of samples of one question."""

    id: str
    """Unique within a run: `<step>-<position in step>`."""
    question: Question
    retrieval: bool
    """Whether the whole group may search."""
    reason: str
    """Why the retrieval policy decided so, e.g. `static qa/hard p=1.00`."""
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One retrieved piece of text."""

    id: str
    text: str
    title: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalFailed:
    """A query that got no passages because the retriever failed, past its retries."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A question of a trajectory to the knowledge that it may search."""

    task: Task
    question: str
    reasoning: str
    """The text since the prompt, observations included."""
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that a summariser found helpful in passages; empty where there were none."""

    text: str
    passage_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsearchable:
    """A query that no search answers, e.g. one that asks for a calculation."""

    reply: str
    """The text that the policy is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The tokens and cost of one use of a summariser."""

    failed: bool
    """It gave nothing usable, past its retries."""
    num_tokens: int
    """Read and written, tries that failed included; 0 for a reply that was kept."""
    cost_usd: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of a look-up."""

    outcome: tuple[Passage, ...] | Facts | Unsearchable | RetrievalFailed
    summary: Summary | None = None
    """None where no summariser was asked; passages beside a failed one stand in for its facts."""


SEARCH = "search"
"""The name of the tool that searches."""

ToolOutcome = Literal["found", "failed", "refused", "invalid", "unsearchable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One use of a tool that a trajectory made, or was refused."""

    tool: str
    """The tool's name; `search` is what the curriculum and the metrics count."""
    arguments: Mapping[str, JsonValue]
    outcome: ToolOutcome
    """`found`: it gave what it has; `failed`: the tool itself failed, past its retries; `refused`:
    over a limit, or the tool is off; `invalid`: the arguments do not fit, which is the policy's
    doing; `unsearchable`: no search answers such a query."""
    ids: tuple[str, ...] = ()
    """Names of what it gave: passages, pages."""
    facts: str = ""
    """The text that it gave; an environment that has shown it need not keep it."""
    start_s: float = 0.0
    """Epoch seconds, by the clock of the trajectory's worker."""
    latency_s: float = 0.0
    summary: Summary | None = None
    """The cost of a summariser, if one was asked."""

    @property
    def query(self) -> str:
        """The query of a search; empty for tools that have none."""
        return str(self.arguments.get("query", ""))


class VersionRun(NamedTuple):
    """Consecutive tokens that one version of the weights sampled."""

    version: int
    num_tokens: int


def version_runs(version_T: Iterable[int]) -> tuple[VersionRun, ...]:
    """Runs of equal versions, one version per token, (T,)."""
    return tuple(VersionRun(v, sum(1 for _ in run)) for v, run in groupby(version_T))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens by one author; sampled ids are kept as they were sampled."""

    author: Author
    token_ids: tuple[int, ...]
    text: str
    """The decoded tokens, for parsing and scoring only; never encoded again."""
    logprobs: tuple[float, ...] = ()
    """Of each token, by whoever drew it: the sampler, or an explorer; empty where nobody says."""
    weight_versions: tuple[VersionRun, ...] = ()
    """The published weights that sampled each token, in order; POLICY segments only."""
    allowed: tuple[tuple[int, ...], ...] = ()
    """The ids that each token was drawn among, where the turn is one of given choices; empty where
    all of the vocabulary was allowed."""
    turn: int = 0
    """The turn of the episode, from 0."""
    role: str = "policy"
    """The role that is asked, of a PROMPT; the one that wrote, of a POLICY segment."""
    reward: float = 0.0
    """The turn's own reward; POLICY segments only."""

    @property
    def is_trained(self) -> bool:
        """Whether its tokens carry loss.

        The policy's do, and injected ones where their drawer stated how likely they were.
        """
        injected = self.author is Author.INJECTED and bool(self.logprobs)
        return self.author is Author.POLICY or injected


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """An append-only list of segments; those that `is_trained` carry loss."""

    id: str
    segments: tuple[Segment, ...]
    events: tuple[ToolUse, ...]
    """Uses of tools, in order."""
    status: Status
    answer: str | None = None
    """The answer to grade, as its environment read it; None where the policy gave no answer."""
    parent: str = ""
    """The trajectory that it was branched off; empty where there is none."""

    @property
    def contexts(self) -> tuple[tuple[Segment, ...], ...]:
        """Stretches that the policy read and wrote: each PROMPT begins a context."""
        starts = [i for i, s in enumerate(self.segments) if s.author is Author.PROMPT]
        ends = [*starts[1:], len(self.segments)]
        return tuple(self.segments[a:b] for a, b in zip(starts, ends, strict=True))

    @property
    def searches(self) -> tuple[ToolUse, ...]:
        """Uses of the tool that searches, refused ones included."""
        return tuple(event for event in self.events if event.tool == SEARCH)

    @property
    def token_ids(self) -> list[int]:
        """All tokens in order, (T,)."""
        return list(chain.from_iterable(s.token_ids for s in self.segments))

    @property
    def policy_mask(self) -> list[bool]:
        """True where the policy wrote the token, (T,)."""
        mask: list[bool] = []
        for segment in self.segments:
            mask += [segment.author is Author.POLICY] * len(segment.token_ids)
        return mask

    @property
    def sampler_logprobs(self) -> list[float]:
        """The sampler's logprobs, 0 where the policy did not write, (T,)."""
        return [x for s in self.segments for x in (s.logprobs or (0.0,) * len(s.token_ids))]

    @property
    def policy_texts(self) -> list[str]:
        """Texts that the policy wrote, one per turn."""
        return [s.text for s in self.segments if s.author is Author.POLICY]

    @property
    def num_searches(self) -> int:
        """Searches that reached the retriever."""
        return sum(s.outcome != "refused" for s in self.searches)

    @property
    def num_policy_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return sum(len(s.token_ids) for s in self.segments if s.author is Author.POLICY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All samples of one assignment; they share question and retrieval mode."""

    assignment: Assignment
    trajectories: tuple[Trajectory, ...]
    played_s: float = 0.0
    """Seconds on a worker, times its trajectories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward that explains itself: total is the sum of its parts (after any clip)."""

    total: float
    parts: Mapping[str, float]
    correct: float
    """Graded correctness in [0, 1], whatever the reward weighs; feeds accuracy."""
    unscored: bool = False
    """The judge was asked and gave no verdict: the configured rule stands in for it."""
    turns: tuple[float, ...] = ()
    """The part of `total` that each turn earned, in order; empty where no term measures turns.
    The rest of the total is the whole trajectory's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with one score per trajectory."""

    group: Group
    scores: tuple[Score, ...]

    def without(self, statuses: Collection[Status]) -> "ScoredGroup":
        """The group as if no trajectory had been played that ended so; it may have none left."""
        return self._where(lambda t: t.status not in statuses)

    @property
    def of_policy(self) -> "ScoredGroup":
        """The trajectories that are the policy's own from begin to end: what it is judged by.

        Left out are those whose tools failed, and branches that an explorer began.
        """
        return self._where(lambda t: t.status is not Status.TOOL_FAILED and not t.parent)

    def _where(self, keeps: Callable[[Trajectory], bool]) -> "ScoredGroup":
        pairs = zip(self.group.trajectories, self.scores, strict=True)
        kept = [(t, score) for t, score in pairs if keeps(t)]
        return ScoredGroup(
            group=replace(self.group, trajectories=tuple(t for t, _ in kept)),
            scores=tuple(score for _, score in kept),
        )


def allowed_positions(segments: Iterable[Segment]) -> dict[int, tuple[int, ...]]:
    """By position in a context, the ids that its token was drawn among, where not among all."""
    found: dict[int, tuple[int, ...]] = {}
    start = 0
    for segment in segments:
        found |= {start + place: ids for place, ids in enumerate(segment.allowed) if ids}
        start += len(segment.token_ids)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explored:
    """The place of a sample in a group that an explorer added to."""

    is_branch: bool
    """It is of a branch."""
    injected: NDArray[np.bool_]
    """(T,) True at tokens that an explorer put in."""
    num_prompt_tokens: int
    """Tokens before the response."""
    share_branched: float
    """Branches among the group's trajectories."""
    share_wrong: float
    """Wrong ones among the policy's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One training sequence of T tokens."""

    id: str
    token_ids: NDArray[np.int64]
    """(T,)"""
    mask: NDArray[np.bool_]
    """(T,) True where the token is trained on; never at position 0."""
    advantages: NDArray[np.float32]
    """(T,)"""
    sampler_logprobs: NDArray[np.float32]
    """(T,) 0 where mask is False."""
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """(T,) the critic's, from which advantages were computed; empty without a critic."""
    returns: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """(T,) the return that the critic learns to expect; empty where it is advantage plus value."""
    role: str = "policy"
    """The role that was asked in the context that the sample is of."""
    allowed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """By position, the ids that its token was drawn among; all others are drawn among all."""
    explored: Explored | None = None
    """None in a group without branches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The samples of one policy update."""

    samples: tuple[Sample, ...]

    @property
    def num_policy_tokens(self) -> int:
        """Tokens trained on, the token-mean denominator."""
        return int(sum(s.mask.sum() for s in self.samples))
