"""A teacher at work: attempts at questions, within what they may cost, each kept as it is made."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import to_json
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from ur2.assembly.measuring import with_rollouts
from ur2.benchmarks.attempts import (
    Attempt,
    Cost,
    by_question,
    largest,
    num_tokens,
    refusals,
    total,
)
from ur2.benchmarks.lines import LineFile
from ur2.config.schema import DifficultyOptions
from ur2.config.teacher import DEMONSTRATIONS, WHERE, attempts_file, keep_rule, sampling_of
from ur2.demonstrations import RecordedContext
from ur2.errors import ComponentError, InputError
from ur2.files import write_bytes, write_text
from ur2.prompts.dialect import Dialect
from ur2.rewards.rubric import Rubric
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.recorded import opened_message, record
from ur2.rollout.tasks import gather_or_cancel
from ur2.rollout.worker import make_renderer
from ur2.trainer.teacher_options import TeacherOptions
from ur2.types import Assignment, Question, ScoredGroup, Status, Trajectory

MIN_ATTEMPTS = 20
"""Attempts before the failure rate of their tools is judged."""


def teach(
    run: DifficultyOptions,
    teacher: TeacherOptions,
    questions: Sequence[Question],
    console: Console,
) -> None:
    """Plays what is left to play, and writes the demonstrations of all attempts that there are.

    Raises:
        InputError: there is not one demonstration.
        ComponentError: the teacher or a tool failed past its retries; the same command goes on.
    """
    file = attempts_file(run)
    made = _made(file, questions)
    open_questions = [q for q in questions if _is_left(teacher, made.get(q.id, ()))]
    if open_questions:
        with_rollouts(
            run,
            lambda rollouts: play_attempts(run, teacher, open_questions, rollouts, console),
            search=teacher.retrieval,
            out=file.out,
            console=console,
        )
    write_demonstrations(run, teacher, questions, console)


async def play_attempts(
    run: DifficultyOptions,
    teacher: TeacherOptions,
    questions: Sequence[Question],
    rollouts: RolloutPool,
    console: Console,
) -> None:
    """Attempts questions on started workers; each attempt is on the disk before the next."""
    file = attempts_file(run)
    earlier = file.read()
    made = by_question(a for a in earlier if a.status is not Status.TOOL_FAILED)
    rubric = Rubric.from_options(run.reward, Dialect(run.prompt.protocol))
    record_of = recorder(run)
    budget = Budget(
        cap=(teacher.max_calls, teacher.max_tokens),
        most=Cost(run.rollout.max_turns, run.rollout.max_turns * run.rollout.max_model_len),
        limit=run.rollout.max_in_play * run.rollout.num_workers,
        spent=total(earlier),
        largest=largest(earlier),
    )

    new: list[Status] = []

    async def attempt(question: Question, number: int) -> Attempt:
        assignment = Assignment(
            id=f"teacher/{question.id}/{number}",
            question=question,
            retrieval=teacher.retrieval,
            reason="teacher",
            step=0,
        )
        group = await rollouts.play(assignment, 1, sampling_of(teacher, number))
        return attempt_of(await rubric.score(group, step=1), number, record_of)

    async def pursue(question: Question) -> None:
        attempts = made.setdefault(question.id, [])
        while _is_left(teacher, attempts):
            if not await budget.begins():
                return
            done = await attempt(question, len(attempts) + 1)  # a failure ends all of them
            await budget.ends(done.cost)
            file.append(done)
            attempts.append(done)
            new.append(done.status)
            _check_failures(run, new)
        bar.advance(task)

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("questions of the teacher", total=len(questions))
        await gather_or_cancel(pursue(question) for question in questions)
    if budget.is_used_up:
        console.print(
            f"{WHERE}: the bound on its cost is reached (max_calls={teacher.max_calls}, "
            f"max_tokens={teacher.max_tokens}); raise it, and the same command goes on",
            soft_wrap=True,
        )


@dataclass(slots=True, kw_only=True)
class Budget:
    """Admits attempts while they and those under way fit into what may be spent."""

    cap: tuple[int | None, int | None]
    """Calls and tokens in all; None is no bound."""
    most: Cost
    """The cost that an attempt may have, until one has ended."""
    limit: int
    """Attempts under way at once."""
    spent: Cost
    largest: Cost | None = None
    """The largest cost of an attempt so far; None: none has ended."""
    is_used_up: bool = False
    _in_flight: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def begins(self) -> bool:
        """Waits until an attempt may begin; False where none may any more."""
        async with self._changed:
            while not self.is_used_up:
                if self._in_flight < self.limit and self._fits(self._in_flight + 1):
                    self._in_flight += 1
                    return True
                if not self._in_flight and not self._begins_first():
                    self.is_used_up = True
                elif not self._in_flight:
                    self._in_flight += 1
                    return True
                else:
                    await self._changed.wait()
            self._changed.notify_all()
            return False

    async def ends(self, cost: Cost) -> None:
        """Notes what an attempt cost."""
        async with self._changed:
            self._in_flight -= 1
            self.spent = Cost(self.spent.calls + cost.calls, self.spent.tokens + cost.tokens)
            self.largest = self.largest.beside(cost) if self.largest else cost
            self._changed.notify_all()

    def _fits(self, num_attempts: int) -> bool:
        each = self.largest or self.most
        return all(
            cap is None or spent + num_attempts * cost <= cap
            for cap, spent, cost in zip(self.cap, self.spent, each, strict=True)
        )

    def _begins_first(self) -> bool:
        """Whether one attempt may find out what attempts cost: nothing tells of it yet."""
        below = zip(self.cap, self.spent, strict=True)
        return self.largest is None and all(cap is None or spent < cap for cap, spent in below)


def attempt_of(
    scored: ScoredGroup, number: int, record_of: Callable[[Trajectory], tuple[RecordedContext, ...]]
) -> Attempt:
    """The line of a played and scored episode."""
    (trajectory,), (score,) = scored.group.trajectories, scored.scores
    question = scored.group.assignment.question
    lengths = [sum(map(num_tokens, context)) for context in trajectory.contexts]
    return Attempt(
        id=question.id,
        question=question.text,
        number=number,
        status=trajectory.status,
        correct=score.correct,
        unscored=score.unscored,
        reward=score.total,
        num_searches=trajectory.num_searches,
        longest_context=max(lengths, default=0),
        cost=Cost.of(trajectory),
        contexts=record_of(trajectory),
    )


def recorder(run: DifficultyOptions) -> Callable[[Trajectory], tuple[RecordedContext, ...]]:
    """Makes text of a teacher's episodes."""
    renderer = make_renderer(run.rollout, run.prompt, run.model.path)
    message_of = opened_message(renderer, as_messages=run.rollout.engine.speaks_text)
    stop_texts = renderer.stop_texts
    return lambda trajectory: record(trajectory, message_of, stop_texts)


def write_demonstrations(
    run: DifficultyOptions,
    teacher: TeacherOptions,
    questions: Sequence[Question],
    console: Console,
) -> None:
    """Writes the contexts of what is kept, and `report.json` on what is not.

    Raises:
        InputError: nothing is kept.
    """
    file, rule = attempts_file(run), keep_rule(teacher)
    attempts = _made(file, questions)
    chosen = [rule.chosen(attempts.get(question.id, ())) for question in questions]
    kept = [attempt for attempt in chosen if attempt is not None]
    everything = [attempt for each in attempts.values() for attempt in each]
    cost = total(file.read())
    report = {
        "questions": len(questions),
        "demonstrations": len(kept),
        "attempts": len(everything),
        "refused": dict(refusals(everything, rule)),
        "calls": cost.calls,
        "tokens": cost.tokens,
    }
    write_text(file.out / "report.json", json.dumps(report, indent=2) + "\n")
    if not kept:
        raise InputError(
            f"{WHERE}: none of {len(everything)} attempts is kept ({_listed(report['refused'])}); "
            f"see {file.path}"
        )
    contexts = [context for attempt in kept for context in attempt.contexts]
    write_bytes(
        demonstrations_path(run), b"".join(to_json(context) + b"\n" for context in contexts)
    )
    console.print(
        f"teacher: {len(kept)} of {len(questions)} questions, {len(contexts)} contexts in "
        f"{demonstrations_path(run)}; {cost.calls} calls, {cost.tokens} tokens; not kept: "
        f"{_listed(report['refused'])}",
        soft_wrap=True,
        highlight=False,
    )


def demonstrations_path(run: DifficultyOptions) -> Path:
    """The file that the cold start learns from."""
    return Path(run.out) / DEMONSTRATIONS


def _made(file: LineFile[Attempt], questions: Sequence[Question]) -> dict[str, list[Attempt]]:
    """The attempts at these questions; those that a tool's failure ended are made again."""
    texts = {question.id: question.text for question in questions}
    attempts = [a for a in file.read() if texts.get(a.id) == a.question]
    return by_question(a for a in attempts if a.status is not Status.TOOL_FAILED)


def _check_failures(run: DifficultyOptions, statuses: Sequence[Status]) -> None:
    failed, limit = statuses.count(Status.TOOL_FAILED), run.retrieval.max_failure_rate
    if len(statuses) >= MIN_ATTEMPTS and failed > limit * len(statuses):
        raise ComponentError(
            f"tools failed in {failed} of {len(statuses)} attempts, more than "
            f"retrieval.max_failure_rate={limit:g}; see to the retriever"
        )


def _is_left(teacher: TeacherOptions, attempts: Sequence[Attempt]) -> bool:
    """Whether a question is to be attempted once more."""
    return len(attempts) < teacher.attempts and not keep_rule(teacher).is_done(attempts)


def _listed(counts: object) -> str:
    assert isinstance(counts, Mapping)
    return ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items())) or "none"
