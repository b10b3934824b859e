"""An evaluation on a real engine in this process: a tiny random model, two benchmarks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ur2.assembly.workers import NoRetriever
from ur2.benchmarks.store import EvaluationFolder
from ur2.config.evaluation import evaluation_settings, load_benchmarks
from ur2.config.load import compose_evaluation
from ur2.config.measuring import resolve_model
from ur2.config.schema import EvaluationOptions
from ur2.evaluate import num_left, play_all
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.rollout.pool.rollout_pool import RolloutPool
from ur2.rollout.worker import RolloutWorker, make_players
from ur2.types import Status

NUM_QUESTIONS = 10


@pytest.fixture
def options(tiny_model: str, tmp_path: Path) -> EvaluationOptions:
    rows = [
        {"question": f"What is the capital of France, {i}?", "answer": "Paris", "idx": i}
        for i in range(NUM_QUESTIONS)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compose_evaluation(
        [
            f"checkpoint={tiny_model}",
            "+benchmark=[hotpotqa,atlas]",
            f"benchmarks.hotpotqa.file={file}",
            f"benchmarks.atlas.file={file}",
            "prompt=atlas",
            "rollout=atlas",
            "engine=hf",
            "rollout.max_prompt_tokens=200",
            "search=false",
            f"out={tmp_path / 'out'}",
        ]
    )


async def play(options: EvaluationOptions) -> EvaluationFolder:
    options = resolve_model(options)
    benchmarks = load_benchmarks(options)
    store = EvaluationFolder(str(options.out))
    store.open(evaluation_settings(options))
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
    try:
        await pool.start()
        await play_all(options, benchmarks, store, pool, Console(quiet=True))
    finally:
        await pool.close()
    assert num_left(store, benchmarks) == 0
    return store


async def test_an_evaluation_in_two_sittings_leaves_the_files_of_one(
    options: EvaluationOptions, tmp_path: Path
) -> None:
    await play(options.model_copy(update={"limit": 4}))
    continued = await play(options)
    whole = await play(options.model_copy(update={"out": str(tmp_path / "whole")}))
    for name in ("hotpotqa", "atlas"):
        items = [
            sorted((store.path / "items" / f"{name}.jsonl").read_text().splitlines())
            for store in (continued, whole)
        ]
        assert len(items[0]) == NUM_QUESTIONS
        assert items[0] == items[1]
    results = json.loads(whole.results_path.read_text())
    assert results == json.loads(continued.results_path.read_text())
    hotpot = results["benchmarks"]["hotpotqa"]
    assert sum(hotpot["statuses"].values()) == NUM_QUESTIONS
    assert set(hotpot["statuses"]) == {status.value for status in Status}
    assert hotpot["metrics"]["judge"]["note"] == f"not judged: {NUM_QUESTIONS} of {NUM_QUESTIONS}"
    assert hotpot["metrics"]["f1"]["low"] <= hotpot["metrics"]["f1"]["value"]
    table = whole.table_path.read_text()
    assert "| HotpotQA | 10 | f1 |" in table
    assert "71.2" in table


def test_bad_input_is_exit_code_2_and_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ur2.evaluate", "checkpoint=nowhere/at/all"),
            *("+benchmark=atlas", "search=false", "engine=hf", f"out={tmp_path / 'out'}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: checkpoint: 'nowhere/at/all' does not exist")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
