"""Draws the assignments of each step, and learns from how their groups did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, Self

import numpy as np

from ur2.curriculum.account import BucketAccount
from ur2.curriculum.budget import SearchBudget
from ur2.curriculum.events import Event
from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.curriculum.retrieval_policy import POLICIES, RetrievalPolicy
from ur2.curriculum.sampler import Sampler
from ur2.curriculum.stages import Stages, StageStep
from ur2.errors import InputError
from ur2.types import Assignment, Question, ScoredGroup


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The sampler, policy and random stream of a stage."""

    sampler: Sampler
    policy: RetrievalPolicy
    rng: np.random.Generator

    @classmethod
    def of(cls, questions: Sequence[Question], options: CurriculumOptions, seed: int) -> Self:
        """The plan of a stage before its first draw."""
        policy = POLICIES[options.policy](options)
        return cls(Sampler(questions, options, seed), policy, np.random.default_rng(seed))


class Curriculum:
    """Question order, retrieval decisions and their record; resumable at any step.

    Args:
        questions: what to train on.
        options: the mix, the retrieval policy, the stages.
        seed: of the order and of the decisions.
        questions_per_step: groups per step.
        stage_questions: by name of the stage, where it has questions of its own.
        max_searches_per_group: what the samples of one group can make; needed by a search budget.

    Raises:
        InputError: there is no question, or `options` does not fit the questions.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        options: CurriculumOptions,
        seed: int,
        questions_per_step: int,
        *,
        stage_questions: Mapping[str, Sequence[Question]] | None = None,
        max_searches_per_group: int | None = None,
    ) -> None:
        self._make_plans = partial(_plans, questions, options, stage_questions or {})
        self._seed = seed
        self._plans = self._make_plans(seed)
        self._stages = Stages(options.stages)
        self._account = BucketAccount(options.cost_per_search)
        self._budget = _budget(options, max_searches_per_group)
        self._questions_per_step = questions_per_step
        self._last_decisions: dict[str, list[bool]] = {}
        self._events: list[Event] = []
        self._step = 0
        self._num_drawn_of_step = 0

    def draw(self, step: int, num_groups: int | None = None) -> list[Assignment]:
        """The next assignments, by default as many as a step has.

        Args:
            step: names them and is seen by the policy; it never goes back.
            num_groups: how many; further calls with the same step add to it.
        """
        if step > self._step:
            self._enter(step)
        count = self._questions_per_step if num_groups is None else num_groups
        assignments = [self._assignment() for _ in range(count)]
        for assignment in assignments:
            decisions = self._last_decisions.setdefault(assignment.question.bucket, [])
            decisions.append(assignment.retrieval)
        return assignments

    def observe(self, scored: Sequence[ScoredGroup]) -> None:
        """Takes in the groups of a step; later draws and decisions may rest on them.

        What comes in late from a stage that is over is counted, and nothing is learned from it.
        """
        outcomes = [o for o in map(GroupOutcome.of, scored) if o is not None]
        self._account.observe(outcomes)
        self._stages.observe(outcomes)
        if self._budget is not None:
            self._budget.observe(outcomes)
        index = self._stages.index
        of_stage = [o for o in outcomes if self._stages.at(o.step).index == index]
        self._plan.sampler.observe(of_stage)
        self._plan.policy.observe(of_stage)

    def prefers_retrieval(self, question: Question) -> bool:
        """Whether a question like this, training or held out, is to be answered with retrieval."""
        return self._plan.policy.prefers(question)

    def stage_at(self, step: int) -> StageStep:
        """Where in the stages a drawn step lies."""
        return self._stages.at(step)

    def begins_stage(self, step: int) -> bool:
        """Whether a stage after the first begins with this step, as far as is known."""
        return self._stages.begins(step)

    def take_events(self) -> list[Event]:
        """Decisions since the last call, for the run's log."""
        events, self._events = [*self._events, *self._plan.policy.take_events()], []
        return events

    def metrics(self) -> dict[str, float]:
        """Retrieval rates of the last step, the account, and what the policy believes."""
        rates = {
            f"curriculum/retrieval_rate/{bucket}": fmean(decisions)
            for bucket, decisions in sorted(self._last_decisions.items())
        }
        stage = {"curriculum/stage": float(self._stages.index)} if len(self._plans) > 1 else {}
        budget = self._budget.metrics() if self._budget is not None else {}
        plan = self._plan
        return {
            **rates,
            **self._account.metrics(),
            **plan.sampler.metrics(),
            **plan.policy.metrics(),
            **budget,
            **stage,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything the stream depends on, as plain data for JSON."""
        return {
            "seed": self._seed,
            "step": self._step,
            "num_drawn_of_step": self._num_drawn_of_step,
            "stages": self._stages.state_dict(),
            "plan": {
                "sampler": self._plan.sampler.state_dict(),
                "policy": self._plan.policy.state_dict(),
                "rng": dict(self._plan.rng.bit_generator.state),
            },
            "budget": None if self._budget is None else self._budget.state_dict(),
            "account": self._account.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the stream where `state` was taken.

        Raises:
            InputError: the questions are not those of the checkpoint.
        """
        self._seed = int(state["seed"])
        self._plans = self._make_plans(self._seed)
        self._step = int(state["step"])
        self._num_drawn_of_step = int(state["num_drawn_of_step"])
        self._stages.load_state_dict(state["stages"])
        self._plan.sampler.load_state_dict(state["plan"]["sampler"])
        self._plan.policy.load_state_dict(state["plan"]["policy"])
        self._plan.rng.bit_generator.state = dict(state["plan"]["rng"])
        if self._budget is not None and state["budget"] is not None:
            self._budget.load_state_dict(state["budget"])
        self._account.load_state_dict(state["account"])

    @property
    def _plan(self) -> StagePlan:
        return self._plans[self._stages.index]

    def _enter(self, step: int) -> None:
        self._step, self._num_drawn_of_step = step, 0
        self._last_decisions = {}
        self._events += self._plan.policy.take_events()
        if (change := self._stages.enter(step)) is not None:
            self._events.append(change)

    def _assignment(self) -> Assignment:
        step, position = self._step, self._num_drawn_of_step
        self._num_drawn_of_step += 1
        question = self._plan.sampler.draw()
        retrieval, reason = self._plan.policy.decide(question, step, self._plan.rng)
        if retrieval and self._budget is not None and not self._budget.take(step):
            retrieval, reason = False, f"budget ({reason})"
        return Assignment(
            id=f"{step:06d}-{position:04d}",
            question=question,
            retrieval=retrieval,
            reason=reason,
            step=step,
        )


def _plans(
    questions: Sequence[Question],
    options: CurriculumOptions,
    stage_questions: Mapping[str, Sequence[Question]],
    seed: int,
) -> list[StagePlan]:
    """One plan per stage, each with a seed of its own; the first has the run's."""
    if not options.stages:
        return [StagePlan.of(questions, options, seed)]
    plans = []
    for index, stage in enumerate(options.stages):
        own = stage_questions.get(stage.name, questions)
        own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        try:
            plans.append(StagePlan.of(own, options.of_stage(stage), own_seed if index else seed))
        except InputError as error:
            raise InputError(f"curriculum.stages, '{stage.name}': {error}") from error
    return plans


def _budget(options: CurriculumOptions, worst_case: int | None) -> SearchBudget | None:
    per_step = options.search_budget_per_step
    if per_step is None:
        return None
    if worst_case is None:
        raise InputError("curriculum.search_budget_per_step: how often a group searches is unknown")
    return SearchBudget(per_step, options.search_budget_carry_steps, worst_case)
