from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from ur2.prompts.dialect import Dialect
from ur2.prompts.options import PromptOptions
from ur2.rewards.options import RewardOptions
from ur2.rewards.rubric import Rubric
from ur2.types import (
    Assignment,
    Author,
    Group,
    Question,
    Segment,
    Status,
    Task,
    ToolUse,
    Trajectory,
)

CONFIGS = Path(__file__).parents[3] / "configs"


def load_dialect(name: str) -> Dialect:
    tree = yaml.safe_load((CONFIGS / "prompt" / f"{name}.yaml").read_text())
    return Dialect(PromptOptions.load(tree, where=name).protocol)


@pytest.fixture(scope="session")
def atlas() -> Dialect:
    return load_dialect("atlas")


@pytest.fixture(scope="session")
def ur2() -> Dialect:
    return load_dialect("ur2")


@pytest.fixture(scope="session")
def make_question() -> Callable[..., Question]:
    def make(task="qa", **changes) -> Question:
        fields = {
            "id": "q1",
            "text": "Capital of France?",
            "answers": ("A",) if task == "choice" else ("Paris",),
            "options": ("Paris", "Rome", "No", "Bern") if task == "choice" else (),
            "level": "hard",
        }
        return Question(task=task, **{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def answered() -> Callable[[Trajectory, Dialect, Task], Trajectory]:
    """A trajectory with the answer that its environment would have read in its last turn."""

    def read(trajectory: Trajectory, dialect: Dialect, task: Task) -> Trajectory:
        texts = trajectory.policy_texts
        return replace(trajectory, answer=dialect.answer(texts[-1], task) if texts else None)

    return read


@pytest.fixture(scope="session")
def make_trajectory() -> Callable[..., Trajectory]:
    """Turns of the policy with documents in between; every turn but the last one searched."""

    def make(
        *turns: str, documents: str = "documents", outcomes: Sequence[str] | None = None
    ) -> Trajectory:
        segments = [Segment(author=Author.PROMPT, token_ids=(1,), text="prompt")]
        for text in turns:
            segments += [
                Segment(author=Author.POLICY, token_ids=(2,), text=text),
                Segment(author=Author.ENVIRONMENT, token_ids=(3,), text=documents),
            ]
        outcomes = ["found"] * (len(turns) - 1) if outcomes is None else outcomes
        return Trajectory(
            id="t1",
            segments=tuple(segments),
            events=tuple(
                ToolUse(tool="search", arguments={"query": "q"}, outcome=outcome)
                for outcome in outcomes
            ),
            status=Status.ANSWERED,
        )

    return make


@pytest.fixture(scope="session")
def load_reward() -> Callable[[str], RewardOptions]:
    """A shipped table of terms."""

    def load(name: str) -> RewardOptions:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            tree = OmegaConf.to_container(hydra.compose(f"reward/{name}"))
        return RewardOptions.load(tree["reward"], where=name)

    return load


@pytest.fixture
def score(make_question, make_trajectory, answered):
    """The score of one trajectory, given by its turns."""

    async def run(options, markup, *turns, step=1, retrieval=True, outcomes=None, **question):
        assignment = Assignment(
            id="1-0", question=make_question(**question), retrieval=retrieval, reason="", step=step
        )
        played = make_trajectory(*turns, outcomes=outcomes)
        trajectory = answered(played, markup, assignment.question.task)
        rubric = Rubric.from_options(options, markup)
        scored = await rubric.score(Group(assignment=assignment, trajectories=(trajectory,)), step)
        return scored.scores[0]

    return run
