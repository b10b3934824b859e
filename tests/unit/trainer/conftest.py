from collections.abc import Callable, Sequence

import pytest
import yaml

from ur2.config.load import CONFIGS
from ur2.prompts.options import PromptOptions
from ur2.types import (
    Assignment,
    Author,
    Group,
    Level,
    Question,
    Score,
    ScoredGroup,
    Segment,
    Status,
    ToolUse,
    Trajectory,
    VersionRun,
)

MakeGroup = Callable[..., ScoredGroup]


def make_group(
    rewards: Sequence[float] = (1.0, 0.0),
    *,
    level: Level = Level.EASY,
    searches: Sequence[ToolUse] = (),
    version: int = 0,
    statuses: Sequence[Status] = (),
) -> ScoredGroup:
    question = Question(id=f"q-{level}", task="qa", text="?", answers=("!",), level=level)
    assignment = Assignment(
        id="000001-0000", question=question, retrieval=True, reason="test", step=1
    )
    trajectories = tuple(
        Trajectory(
            id=f"000001-0000/{i}",
            segments=(
                Segment(author=Author.PROMPT, token_ids=(1, 2), text="?"),
                Segment(
                    author=Author.POLICY,
                    token_ids=(3, 4, 5),
                    text="!",
                    logprobs=(-0.1, -0.2, -0.3),
                    weight_versions=(VersionRun(version, 3),),
                ),
            ),
            events=tuple(searches),
            status=statuses[i] if statuses else Status.ANSWERED,
        )
        for i in range(len(rewards))
    )
    return ScoredGroup(
        group=Group(assignment=assignment, trajectories=trajectories),
        scores=tuple(Score(total=r, parts={"answer": r}, correct=float(r > 0)) for r in rewards),
    )


@pytest.fixture
def scored_group() -> ScoredGroup:
    return make_group()


@pytest.fixture
def group_of() -> MakeGroup:
    return make_group


@pytest.fixture
def prompt_options() -> PromptOptions:
    text = (CONFIGS / "prompt" / "atlas.yaml").read_text()
    return PromptOptions.load(yaml.safe_load(text), where="atlas")
