"""Scored groups for the loop, played ahead of it as far as the mode allows.

curriculum ─▶ queue ─▶ in play ─▶ played and scored ─▶ step
                ▲          │
                └──────────┘ a tail that is given up

A step takes B groups, first those that began first. A group without signal takes a place too,
unless it is refilled. With η the mode's staleness and v the version of the weights, groups are
started while

    places taken + played + in play  <  (η + v + 1)·B  +  extra groups

(AReaL, arXiv 2505.24298, eq. 3), and a step waits while so much would be left over that some of it
were older than η (with extra groups, η + 1) when its turn comes. η = 0 is synchronous training:
nothing is in play while the policy is updated.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ur2.curriculum.curriculum import Curriculum
from ur2.errors import InputError
from ur2.trainer.options import TrainerOptions
from ur2.types import Assignment, Question, ScoredGroup

Play = Callable[[Assignment], Awaitable[ScoredGroup]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroups:
    """The groups of one step."""

    accepted: tuple[ScoredGroup, ...]
    """To train on, in the order they were drawn."""
    rejected: tuple[ScoredGroup, ...]
    """Played and scored, but without signal; in the order they were drawn."""
    num_given_up: int
    """Groups of the tail that were stopped, to be played anew."""

    @property
    def played(self) -> list[ScoredGroup]:
        """All groups, in the order they were drawn."""
        return sorted((*self.accepted, *self.rejected), key=_drawn)


@dataclass(frozen=True, slots=True)
class _InPlay:
    assignment: Assignment
    version: int
    """The weights that it began under."""


@dataclass(frozen=True, slots=True)
class _Played:
    scored: ScoredGroup
    informative: bool
    version: int
    """The weights that it began under."""

    @property
    def age(self) -> tuple[int, str]:
        """Sorts those that began first to the front."""
        return self.version, _drawn(self.scored)


class Feed:
    """Draws, plays, scores and filters groups.

    Args:
        options: the mode, and the groups of a step.
        curriculum: what is drawn next.
        play: plays and scores one group.
        is_informative: whether a group is worth training on.
        drop: told of a group that was over at the moment when it was given up.
    """

    def __init__(
        self,
        options: TrainerOptions,
        curriculum: Curriculum,
        play: Play,
        is_informative: Callable[[ScoredGroup], bool],
        drop: Callable[[ScoredGroup], object] = lambda scored: None,
    ) -> None:
        self._options = options
        self._curriculum = curriculum
        self._play = play
        self._is_informative = is_informative
        self._drop = drop
        self._queue: deque[Assignment] = deque()
        self._in_play: dict[asyncio.Task[ScoredGroup], _InPlay] = {}
        self._done: list[asyncio.Task[ScoredGroup]] = []
        """Over, and not filed yet."""
        self._played: list[_Played] = []
        """In the order they began."""
        self._changed = asyncio.Event()
        self._version = 0
        self._num_taken = 0

    async def next(self, step: int) -> StepGroups:
        """The groups of `step`; on return further ones may be in play.

        Raises:
            Ur2Error: a group could not be played or scored.
        """
        size = self._options.questions_per_step
        self._version, self._num_taken = step - 1, (step - 1) * size
        self._gather()
        self._start_more()
        while not self._is_complete():
            await self._changed.wait()
            self._changed.clear()
            self._gather()
            self._start_more()
        count = self._num_played_of_step()
        taken = sorted(self._played[:count], key=lambda played: _drawn(played.scored))
        del self._played[:count]
        self._num_taken += size
        num_given_up = 0
        if self._options.tail == "give_up":
            num_given_up = await self._give_up_tail()
        else:
            self._start_more()
        return StepGroups(
            accepted=tuple(played.scored for played in taken if played.informative),
            rejected=tuple(played.scored for played in taken if not played.informative),
            num_given_up=num_given_up,
        )

    async def settle(self, stop: asyncio.Event) -> None:
        """Waits, in mode `one_step_off`, until nothing is in play: no group sees two versions.

        Waits no longer once `stop` is set.
        """
        stopped = asyncio.ensure_future(stop.wait())
        running = set(self._in_play) if self._options.mode == "one_step_off" else set()
        try:
            while running and not stop.is_set():
                await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
                running = {task for task in running if not task.done()}
        finally:
            stopped.cancel()

    def pending(self) -> list[dict[str, Any]]:
        """Assignments that were drawn and not consumed, as plain data for JSON."""
        drawn = [
            *self._queue,
            *(playing.assignment for playing in self._in_play.values()),
            *(played.scored.group.assignment for played in self._played),
        ]
        return [
            {
                "id": assignment.id,
                "question": assignment.question.id,
                "source": assignment.question.source,
                "retrieval": assignment.retrieval,
                "reason": assignment.reason,
                "step": assignment.step,
            }
            for assignment in sorted(drawn, key=lambda assignment: assignment.id)
        ]

    def restore(self, pending: Sequence[Mapping[str, Any]], questions: Sequence[Question]) -> None:
        """Plays again, before anything new is drawn, what `pending` returned.

        Raises:
            InputError: `questions` lacks one of them.
        """
        known = {(question.source, question.id): question for question in questions}
        for entry in pending:
            question = known.get((entry["source"], entry["question"]))
            if question is None:
                raise InputError(
                    f"resume: question '{entry['question']}' of the checkpoint is not in the "
                    "training file; restore the file, or start anew with resume=none"
                )
            self._queue.append(
                Assignment(
                    id=entry["id"],
                    question=question,
                    retrieval=entry["retrieval"],
                    reason=entry["reason"],
                    step=entry["step"],
                )
            )

    async def close(self) -> None:
        """Gives up whatever is in play."""
        tasks = list(self._in_play)
        self._in_play.clear()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                self._drop(outcome)

    def _start_more(self) -> None:
        """Starts groups up to the bound, none for steps after the last."""
        options = self._options
        ahead = options.staleness + self._version + 1
        size = options.questions_per_step
        bound = min(ahead, options.steps) * size
        if ahead < options.steps or options.tail == "give_up":
            bound += options.num_extra_groups
        num_taken = self._num_taken + len(self._in_play)
        num_taken += max(self._places(played.informative for played in self._played), default=0)
        for place in range(num_taken, bound):
            if not self._queue:
                self._queue.extend(self._curriculum.draw(place // size + 1, 1))
            assignment = self._queue.popleft()
            task = asyncio.ensure_future(self._play(assignment))
            task.add_done_callback(self._finish)
            self._in_play[task] = _InPlay(assignment, self._version)

    def _finish(self, task: asyncio.Task[ScoredGroup]) -> None:
        self._done.append(task)
        self._changed.set()

    def _gather(self) -> None:
        """Files what has been played, in the order it began."""
        done, self._done = self._done, []
        for task in done:
            if (playing := self._in_play.pop(task, None)) is not None:  # None: was given up
                scored = task.result()
                played = _Played(scored, self._is_informative(scored), playing.version)
                insort(self._played, played, key=lambda other: other.age)

    def _places(self, informative: Iterable[bool]) -> Iterator[int]:
        """How many places groups take from the beginning of a step on, up to each of them."""
        taken, refills = 0, self._options.max_refills
        for takes_a_place in informative:
            if takes_a_place or not refills:
                taken += 1
                if taken % self._options.questions_per_step == 0:
                    refills = self._options.max_refills
            else:
                refills -= 1
            yield taken

    def _num_played_of_step(self) -> int:
        """How many of those played, from the first on, fill the step; 0: more are needed."""
        size = self._options.questions_per_step
        places = self._places(played.informative for played in self._played)
        return next((count for count, taken in enumerate(places, start=1) if taken == size), 0)

    def _is_complete(self) -> bool:
        count = self._num_played_of_step()
        if not count or not self._in_play:
            return count > 0
        left = sorted(
            [(*played.age, played.informative) for played in self._played[count:]]
            + [(playing.version, playing.assignment.id, True) for playing in self._in_play.values()]
        )
        max_age = self._options.staleness + bool(self._options.num_extra_groups)
        places = self._places(informative for *_, informative in left)
        return all(
            place <= (version + max_age - self._version) * self._options.questions_per_step
            for place, (version, _, informative) in zip(places, left, strict=True)
            if informative
        )

    async def _give_up_tail(self) -> int:
        """Stops the groups that the extra ones made superfluous; says how many."""
        tail = [playing.assignment for playing in self._in_play.values()]
        for played in self._played:  # several were over at once
            tail.append(played.scored.group.assignment)
            self._drop(played.scored)
        self._played.clear()
        await self.close()
        self._queue.extendleft(sorted(tail, key=lambda assignment: assignment.id, reverse=True))
        return len(tail)


def _drawn(scored: ScoredGroup) -> str:
    return scored.group.assignment.id
