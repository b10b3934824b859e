"""A measurement of difficulty with scripted rollouts."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from ur2.benchmarks.difficulty import publish
from ur2.benchmarks.tallies import TallyFile
from ur2.config.difficulty import difficulty_settings
from ur2.config.load import compose_difficulty
from ur2.datasets import load_questions
from ur2.difficulty import assignments_left, play_all
from ur2.errors import ComponentError, InputError
from ur2.rewards.options import JudgeOptions
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.types import (
    Author,
    Group,
    Level,
    Question,
    Segment,
    Status,
    ToolUse,
    Trajectory,
)

SAMPLES = 4


@dataclass
class ScriptedWorker:
    """Answers right as often as the script says: by question id, without and with retrieval."""

    right: dict[str, tuple[int, int]]
    outcome: str = "found"
    stops_after: int = 10**6
    played: list[str] = field(default_factory=list)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def take(self, handover, version) -> None: ...

    async def run_group(self, assignment, num_samples, sampling, first=0, branches=()) -> Group:
        if len(self.played) >= self.stops_after:
            raise ComponentError("the engine is gone")
        self.played.append(assignment.id)
        right = self.right[assignment.question.id][assignment.retrieval]
        searches = (
            ToolUse(tool="search", arguments={"query": "q"}, outcome=self.outcome),
        ) * assignment.retrieval
        return Group(
            assignment=assignment,
            trajectories=tuple(
                Trajectory(
                    id=f"{assignment.id}/{sample}",
                    segments=(
                        Segment(
                            author=Author.POLICY,
                            token_ids=(1,),
                            text=f"<answer>{'Paris' if sample < right else 'Rome'}</answer>",
                            logprobs=(0.0,),
                        ),
                    ),
                    events=searches,
                    status=Status.ANSWERED,
                    answer="Paris" if sample < right else "Rome",
                )
                for sample in range(num_samples)
            ),
        )


@pytest.fixture
def questions():
    return [
        Question(id=f"q{i}", task="qa", text=f"Where {i}?", answers=("Paris",), level=Level.EASY)
        for i in range(4)
    ]


@pytest.fixture
def options(tmp_path):
    return compose_difficulty(
        [
            "+experiment=quickstart",
            f"out={tmp_path / 'out'}",
            f"samples={SAMPLES}",
            "with_retrieval=true",
        ]
    )


@pytest.fixture
def worker():
    return ScriptedWorker({"q0": (4, 4), "q1": (2, 4), "q2": (1, 3), "q3": (0, 2)})


async def play(options, questions, worker):
    file = TallyFile(options_out(options))
    file.open({"seed": options.seed})
    left = assignments_left(options, questions, file)
    pool = RolloutPool([worker], options.rollout)
    await play_all(options, left, file, pool, Console(quiet=True))
    return file


def options_out(options):
    return Path(options.out)


async def test_pass_rates_become_a_question_file_that_loads(options, questions, worker):
    file = await play(options, questions, worker)
    console = Console(record=True, width=160, file=io.StringIO())
    publish(questions, file.read(questions), options.levels, 0.95, file.out, console)
    measured = load_questions(str(file.out / "questions.jsonl"))
    assert [q.level.value for q in measured] == ["easy", "medium", "hard", "very_hard"]
    assert [q.text for q in measured] == [q.text for q in questions]
    report = json.loads((file.out / "report.json").read_text())
    assert report["num_questions"] == 4
    assert sum(count for *_, count in report["moves"]) == 4
    (gain,) = report["gains"]
    assert gain["gain"]["value"] == pytest.approx((0 + 2 + 2 + 2) / 16)
    assert gain["gain_per_search"] == gain["gain"]["value"]
    shown = console.export_text()
    assert "questions by level" in shown
    assert "+0.375" in shown
    assert (file.out / "levels.png").stat().st_size > 10_000


async def test_an_interrupted_measurement_goes_on_where_it_stopped(options, questions, worker):
    worker.stops_after = 3
    with pytest.raises(ComponentError, match="gone"):
        await play(options, questions, worker)
    worker.stops_after = 10**6
    done = len((options_out(options) / "rollouts.jsonl").read_text().splitlines())
    before = len(worker.played)
    file = await play(options, questions, worker)
    assert len(worker.played) - before == 8 - done
    assert len(file.read(questions)) == 8


def test_a_line_that_was_cut_off_is_played_again(options, questions):
    file = TallyFile(options_out(options))
    file.open({})
    whole = '{"id":"q0","question":"Where 0?","retrieval":false,"num_samples":4,'
    whole += '"num_correct":1.0,"num_searches":0}\n'
    (file.out / "rollouts.jsonl").write_text(whole + whole[:30])
    assert list(file.read(questions)) == [("q0", False)]
    assert (file.out / "rollouts.jsonl").read_text() == whole
    assert len(assignments_left(options, questions, file)) == 7


def test_rollouts_of_other_questions_or_settings_are_refused(options, questions):
    file = TallyFile(options_out(options))
    file.open({"seed": 0})
    with pytest.raises(InputError, match="another seed"):
        file.open({"seed": 1})
    (file.out / "rollouts.jsonl").write_text(
        '{"id":"q0","question":"Why?","retrieval":false,"num_samples":4,"num_correct":1.0,'
        '"num_searches":0}\n'
    )
    with pytest.raises(InputError, match="line 1: question 'q0'"):
        file.read(questions)
    none_played = '{"id":"q0","question":"Where 0?","retrieval":false,"num_samples":0,'
    for line in ("{}", none_played + '"num_correct":0.0,"num_searches":0}', "\x00"):
        (file.out / "rollouts.jsonl").write_text(f"{line}\n")
        with pytest.raises(InputError, match="line 1: no tally"):
            file.read(questions)
    for damaged in ("", "{", "[1]", "\udcff"):
        (file.out / "settings.json").write_text(damaged, errors="surrogateescape")
        with pytest.raises(InputError, match="no settings"):
            file.open({"seed": 0})


def test_a_measurement_is_not_continued_with_another_judge(options):
    def judged_by(**judge):
        judge_options = JudgeOptions(tasks=("qa",), unscored="zero", **judge)
        reward = options.reward.model_copy(update={"judge": judge_options})
        return options.model_copy(update={"reward": reward})

    TallyFile(options_out(options)).open(
        difficulty_settings(judged_by(model="one", url="http://a/v1"))
    )
    TallyFile(options_out(options)).open(
        difficulty_settings(judged_by(model="one", url="http://b/v1"))
    )
    for other in (options, judged_by(model="one"), judged_by(model="two", url="http://a/v1")):
        with pytest.raises(InputError, match=r"another reward\.judge"):
            TallyFile(options_out(options)).open(difficulty_settings(other))


async def test_a_retriever_that_fails_ends_the_measurement(options, worker):
    questions = [
        Question(id=f"q{i}", task="qa", text=f"Where {i}?", answers=("Paris",), level=Level.EASY)
        for i in range(8)
    ]
    worker.right, worker.outcome = {q.id: (1, 1) for q in questions}, "failed"
    with pytest.raises(ComponentError, match="max_failure_rate"):
        await play(options, questions, worker)
