"""Exploration: what is played beside the policy's own samples, and how likely it was to be drawn.

scored group ─▶ branches ─▶ episodes that go on from a part of a record ─▶ scored ─▶ admit ─▶ group

An explorer sees a group once it is scored. A branch keeps the exact tokens of a part of a
trajectory, puts words into the policy's mouth, and lets it go on. Injected tokens carry loss only
where the explorer states how likely they were; the log-probability of every token of an update is
what `behaviour` says, in place of the sampler's, and the correction of the algorithm weighs by it.
Branches are compared within their group, each with its reward once; what the policy is judged by
(accuracy, curriculum) is its own samples alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from ur2.environments.base import Branch
from ur2.errors import PluginError
from ur2.options import Options
from ur2.plugins import blaming, find
from ur2.rollout.rex_rag import RexRag, RexRagOptions
from ur2.types import Sample, ScoredGroup

METHODS = ("branches", "admit", "behaviour", "Options")


class Texts(Protocol):
    """The tokenizer of the policy."""

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text that continues a context."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids."""


class Policy(Protocol):
    """The policy's own word on tokens."""

    async def logprobs(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """One array (T,) per sample, 0 at tokens that are not trained."""


class Explorer(Protocol):
    """Made once for a run; it keeps nothing from group to group, so that a run can be resumed."""

    Options: ClassVar[Any]
    """The class of its options, with a default for each."""

    def __init__(self, options: Any, texts: Texts) -> None:
        """Takes its options and the policy's tokenizer."""

    def branches(self, scored: ScoredGroup, rng: np.random.Generator) -> list[Branch]:
        """The branches to play from a group; none, mostly.

        Args:
            scored: the policy's own samples.
            rng: follows from the run's seed and the group alone.
        """
        ...

    async def admit(self, scored: ScoredGroup, more: ScoredGroup, models: Policy) -> ScoredGroup:
        """The group to train on.

        Args:
            scored: the policy's own samples.
            more: the branches, as they were played and scored.
            models: the policy.
        """
        ...

    def behaviour(self, sample: Sample) -> NDArray[np.float32]:
        """The log-probability of each token under what drew it, (T,); 0 where the mask is False.

        Args:
            sample: `sampler_logprobs` are the sampler's, and at injected tokens what `admit` put
                into their segments.
        """
        ...


class ExplorationOptions(Options):
    """The explorer, and the options of each."""

    name: str = "none"
    """`none`, `rex_rag`, or `package.module:Name` of an explorer of your own."""
    rex_rag: RexRagOptions = RexRagOptions()
    """REX-RAG: where an answer is wrong, think again from before it."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of an explorer of your own; its class says which there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorerKind:
    """A maker of explorers."""

    name: str
    kind: type[Explorer]
    options: Options

    @classmethod
    def load(cls, options: ExplorationOptions) -> "ExplorerKind | None":
        """The explorer that options name; None where nothing is explored.

        Raises:
            InputError: there is no such explorer, it lacks a method, or its options do not fit.
        """
        if options.name == "none":
            return None
        kind = find(options.name, EXPLORERS, key="exploration.name", methods=METHODS)
        if options.name in EXPLORERS:
            return cls(name=options.name, kind=kind, options=getattr(options, options.name))
        own = kind.Options.load(options.options, where="exploration.options")
        return cls(name=options.name, kind=kind, options=own)


class Exploration:
    """An explorer whose word is checked."""

    def __init__(self, kind: ExplorerKind, texts: Texts, seed: int) -> None:
        self._name = f"explorer '{kind.name}'"
        with blaming(self._name):
            self._explorer = kind.kind(kind.options, texts)
        self._seed = seed

    def branches(self, scored: ScoredGroup) -> list[Branch]:
        """See `Explorer`.

        Raises:
            PluginError: it raised, or a branch goes on from no trajectory of the group.
        """
        assignment = scored.group.assignment
        rng = np.random.default_rng([self._seed, *assignment.id.encode()])
        known = {trajectory.id: trajectory for trajectory in scored.group.trajectories}
        with blaming(f"{self._name} on group '{assignment.id}'"):
            found = list(self._explorer.branches(scored, rng))
            for branch in found:
                if branch.parent not in known:
                    raise PluginError(
                        f"a branch goes on from '{branch.parent}', which is not there"
                    )
                if not branch.segments or branch.segments[0] != known[branch.parent].segments[0]:
                    raise PluginError(f"a branch of '{branch.parent}' begins with another prompt")
        return found

    async def admit(self, scored: ScoredGroup, more: ScoredGroup, models: Policy) -> ScoredGroup:
        """See `Explorer`.

        Raises:
            PluginError: it raised, or dropped or changed a sample of the policy's own.
        """
        what = f"{self._name} on group '{scored.group.assignment.id}'"
        with blaming(what):
            admitted = await self._explorer.admit(scored, more, models)
            own = [t for t in admitted.group.trajectories if not t.parent]
            if own != list(scored.group.trajectories):
                raise PluginError("`admit` changed the policy's own samples; it adds branches only")
            if len(admitted.scores) != len(admitted.group.trajectories):
                raise PluginError("`admit` gave another number of scores than of trajectories")
        return admitted

    def behaviour(self, sample: Sample) -> Sample:
        """The sample under the probabilities of what drew it.

        Raises:
            PluginError: the explorer raised, or gave what are no log-probabilities.
        """
        with blaming(f"{self._name} on sample '{sample.id}'"):
            logprobs = np.asarray(self._explorer.behaviour(sample), dtype=np.float32)
            if logprobs.shape != sample.mask.shape:
                raise PluginError(
                    f"`behaviour` has shape {logprobs.shape}, not {sample.mask.shape}"
                )
            if not (np.isfinite(logprobs[sample.mask]) & (logprobs[sample.mask] <= 1e-6)).all():
                raise PluginError("`behaviour` gave what are no log-probabilities")
        return replace(sample, sampler_logprobs=np.where(sample.mask, logprobs, 0.0))


EXPLORERS: Mapping[str, type[Explorer]] = {"rex_rag": RexRag}
