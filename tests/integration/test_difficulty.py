"""A measurement of difficulty on a real engine in this process: a tiny random model."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ur2.assembly.workers import NoRetriever
from ur2.benchmarks.difficulty import publish
from ur2.benchmarks.tallies import TallyFile
from ur2.config.difficulty import load_measured
from ur2.config.load import compose_difficulty
from ur2.config.schema import DifficultyOptions
from ur2.datasets import load_questions
from ur2.difficulty import assignments_left, play_all
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.types import Level

NUM_QUESTIONS, SAMPLES = 6, 2


@pytest.fixture
def options(tiny_model: str, tmp_path: Path) -> DifficultyOptions:
    rows = [
        {"question": f"What is the capital of France, {i}?", "answer": "Paris", "level": "easy"}
        for i in range(NUM_QUESTIONS)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compose_difficulty(
        [
            "+experiment=quickstart",
            f"out={tmp_path / 'out'}",
            f"model.path={tiny_model}",
            f"dataset.train={file}",
            "engine=hf",
            f"samples={SAMPLES}",
            "rollout.max_prompt_tokens=200",
            "environment.search.max_tokens_per_turn=8",
        ]
    )


async def test_a_model_gets_a_question_file_with_its_own_levels(options: DifficultyOptions) -> None:
    questions = load_measured(options)
    file = TallyFile(Path(options.out))
    file.open({"seed": options.seed})
    players = make_players(
        options.rollout,
        options.prompt,
        options.environment,
        model_path=options.model.path,
        dtype="float32",
        knowledge=RoutedKnowledge(retriever=NoRetriever(), top_k=1),
        seed=options.seed,
    )
    pool = RolloutPool([RolloutWorker(players, seed=options.seed)], options.rollout)
    console = Console(file=io.StringIO())
    try:
        await pool.start()
        left = assignments_left(options, questions, file)
        await play_all(options, left, file, pool, console)
    finally:
        await pool.close()
    tallies = file.read(questions)
    assert {key: tally.num_samples for key, tally in tallies.items()} == {
        (question.id, False): SAMPLES for question in questions
    }
    publish(questions, tallies, options.levels, options.confidence, file.out, console)
    measured = load_questions(str(file.out / "questions.jsonl"))
    assert {question.level for question in measured} == {Level.VERY_HARD}
    assert [q.text for q in measured] == [q.text for q in questions]
