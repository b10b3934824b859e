"""Every shipped experiment dry-runs without GPU, weights and data, and with a tiny model."""

import functools
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ur2.config.load import CONFIGS, compose
from ur2.config.plan import EXAMPLES, print_plan
from ur2.config.schema import RunOptions
from ur2.config.tables import retrieval_rate
from ur2.errors import run_entry
from ur2.train import main

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
FIXTURES = Path(__file__).parents[2] / "fixtures"
QUESTIONS = {"math_rag_stage1": "math", "math_rag": "mixed", "medqa": "choice"}
QUESTIONS |= {
    "vanilla_rl": "choice",
    "r3rag": "qa",
    "search_r1": "qa",
    "quickstart": "qa",
    "smoke": "qa",
}


def questions(experiment: str) -> str:
    name = next(name for prefix, name in QUESTIONS.items() if experiment.startswith(prefix))
    return str(FIXTURES / f"{name}.jsonl")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from ur2.policy.model.scratch import ScratchOptions, make_model

    folder = str(tmp_path_factory.mktemp("tiny") / "model")
    small = ScratchOptions(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2)
    make_model(small, ["What is it? It is a question about the world."], folder, seed=0)
    return folder


@functools.cache
def shipped(experiment: str) -> RunOptions:
    return compose([f"+experiment={experiment}"])


def plan(*overrides: str) -> str:
    shown = io.StringIO()
    print_plan(compose(list(overrides)), Console(width=200, file=shown))
    return shown.getvalue()


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ur2.train", *arguments])
    run_entry(main)  # raises SystemExit unless the exit code is 0


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_dry_run_needs_neither_gpu_nor_weights_nor_data(experiment, monkeypatch, capsys):
    command_line(monkeypatch, f"+experiment={experiment}", "dry_run=true")
    shown = capsys.readouterr().out
    assert experiment in shown
    assert "missing" not in shown
    assert "Prompts are not shown" in shown or "prompt: " in shown


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_dry_run_shows_the_prompts_of_a_local_model_and_file(
    experiment, tiny_model, monkeypatch, capsys
):
    train = questions(experiment)
    runs = Path("runs", experiment)
    before = set(runs.glob("*"))
    command_line(
        monkeypatch,
        f"+experiment={experiment}",
        "dry_run=true",
        f"model.path={tiny_model}",
        f"dataset.train={train}",
    )
    shown = capsys.readouterr().out
    tasks = {"mixed": ("math", "qa")}.get(Path(train).stem, (Path(train).stem,))
    for task in tasks:
        for mode in ("on", "off"):
            assert f"─ prompt: {task}, retrieval {mode}: " in shown
    assert " tokens " in shown
    assert "config.json" in shown
    assert set(runs.glob("*")) == before


def test_batch_arithmetic_is_that_of_the_paper():
    shown = plan("+experiment=math_rag_stage1_qwen7b")
    assert "64 questions x 16 samples = 1,024" in shown
    assert "4 of 256 trajectories, 92 in all" in shown
    assert "2,048 prompt + 29,000 after it" in shown


def test_a_step_is_shared_among_the_buckets_that_are_drawn(tiny_model):
    given = [
        "+experiment=math_rag_stage2_qwen7b",
        f"model.path={tiny_model}",
        f"dataset.train={FIXTURES / 'mixed.jsonl'}",
    ]
    rows = table_rows(plan(*given), "curriculum")
    assert rows["qa/hard"] == ["1", "16.0", "1.00"]
    assert rows["math/easy"] == ["1", "16.0", "0.00"]
    weighted = [*given, "+curriculum.bucket_weights={qa/hard: 3, math/hard: 1}"]
    rows = table_rows(plan(*weighted), "curriculum")
    assert rows["qa/hard"] == ["1", "48.0", "1.00"]
    assert rows["math/easy"] == ["1", "0.0", "0.00"]


def test_what_shares_a_gpu_is_added_up_and_too_much_is_said() -> None:
    colocated = ["+experiment=medqa_qwen7b", "cluster=node_8gpu_colocated"]
    shown = plan(*colocated)
    assert "8, colocated" in shown
    rows = table_rows(shown, "memory per GPU")
    together = float(rows["both"][1].removesuffix(" of 80"))
    # bf16 weights and buckets, a rank's part of 12 bytes per weight, and half of 80 GiB
    expected = (7.6156e9 * (2 + 12 / 8) + 2 * 2 * 5e8) / 2**30 + 40
    assert together == pytest.approx(expected, abs=0.1)
    tight = plan(*colocated, "rollout.engine.gpu_memory_utilization=0.8")
    assert table_rows(tight, "memory per GPU")["both"][1].endswith(" of 80: too much")
    assert "both" not in table_rows(plan("+experiment=medqa_qwen7b"), "memory per GPU")


def test_every_stage_is_shown_with_its_reward_and_its_end():
    shown = plan("+experiment=math_rag_qwen7b")
    first = table_rows(shown, "stage search_activation: static")
    assert first["math/very_hard"] == ["?", "?", "1.00"]
    assert first["(reward)"][0] == "search_activation"
    assert first["(lasts)"][0] == "for 23 steps or until reward no longer rises"
    second = table_rows(shown, "stage answer_quality: static")
    assert second["qa/hard"][2] == "1.00"
    assert second["math/hard"][2] == "0.00"
    assert second["(lasts)"][0] == "to the end"


def test_an_adaptive_curriculum_has_no_rate_to_show():
    rows = table_rows(plan("+experiment=quickstart", "curriculum=atlas_adaptive"), "curriculum")
    assert rows["qa/easy"][1:] == ["10.7", "as measured"]


def table_rows(shown: str, title: str) -> dict[str, list[str]]:
    lines = shown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    end = next(i for i in range(start, len(lines)) if lines[i].startswith("└"))
    cells = ([c.strip() for c in line.split("│")[1:-1]] for line in lines[start:end])
    return {row[0]: row[1:] for row in cells if row}


def test_weights_by_step_are_written_out():
    phases = "[{until: 4, value: 3.0}, {value: 0.5}]"
    shown = plan("+experiment=smoke", f"reward.terms.correct.weight={phases}")
    assert "3 to step 4, 0.5 from then on" in shown


def test_the_reward_shows_judge_bounds_and_the_searches_that_it_wants():
    stage1 = table_rows(plan("+experiment=math_rag_stage1_qwen3b"), "reward")
    assert stage1["search_bonus"][1] == "1 to step 15"
    assert "values=[0.0, 5.0, 7.0]" in stage1["search_bonus"][2]
    assert stage1["(fewest searches)"][1] == "1 to step 15"
    stage2 = table_rows(plan("+experiment=math_rag_stage2_qwen7b"), "reward")
    assert "no endpoint" in stage2["(judge)"][2]
    assert stage2["(the sum is clipped)"][0] == "-10 to 10"


def test_held_out_questions_in_the_training_file_are_counted_and_left_out(tmp_path):
    given = [
        "+experiment=medqa_qwen7b",
        f"dataset.train={FIXTURES / 'choice.jsonl'}",
        f"dataset.eval={tmp_path / 'eval.jsonl'}",
    ]
    first, *_ = (FIXTURES / "choice.jsonl").read_text().splitlines()
    (tmp_path / "eval.jsonl").write_text(first.replace("insulin?", "INSULIN ?") + "\n")
    shown = plan(*given)
    assert table_rows(shown, "overlap")["exactly"] == ["1 of 3"]
    assert "choice/easy" in table_rows(shown, "curriculum")
    shown = plan(*given, "dataset.exclude_overlap=true")
    assert table_rows(shown, "overlap")["they are"] == ["left out"]
    assert "choice/easy" not in table_rows(shown, "curriculum")


def test_examples_stand_in_for_a_file_that_is_not_here(tiny_model):
    shown = plan("+experiment=math_rag_stage1_qwen7b", f"model.path={tiny_model}")
    assert "example prompt: math, retrieval on" in shown
    assert "example prompt: qa" not in shown
    assert EXAMPLES["math"].text in shown


def test_question_text_is_shown_as_it_is(tiny_model):
    shown = plan(
        "+experiment=medqa_qwen7b",
        f"model.path={tiny_model}",
        f"dataset.train={FIXTURES / 'choice.jsonl'}",
    )
    assert "B. Pancreas" in shown


@pytest.mark.parametrize("experiment", ["medqa_qwen7b", "math_rag_stage2_llama8b"])
def test_the_second_dialect_is_one_switch(experiment, tiny_model):
    shown = plan(
        f"+experiment={experiment}",
        "prompt=search_r1",
        f"model.path={tiny_model}",
        f"dataset.train={questions(experiment)}",
    )
    assert "<search>" in shown
    assert "begin_of_query" not in shown


def test_the_papers_retrieval_rates_are_in_the_configs():
    medqa = shipped("medqa_qwen7b").curriculum
    rates = {level: retrieval_rate(medqa, f"choice/{level}") for level in ("easy", "medium")}
    assert set(rates.values()) == {0.0}
    assert retrieval_rate(medqa, "choice/hard") == pytest.approx(5 / 7)
    assert retrieval_rate(medqa, "choice/very_hard") == 1.0
    vanilla = shipped("vanilla_rl_qwen7b").curriculum
    assert retrieval_rate(vanilla, "choice/very_hard") == 0.0
    stage2 = shipped("math_rag_stage2_qwen7b").curriculum
    assert retrieval_rate(stage2, "qa/easy") == 1.0
    assert retrieval_rate(stage2, "math/hard") == 0.0


PAPER = [e for e in EXPERIMENTS if e.startswith(("medqa", "math_rag", "vanilla"))]


@pytest.mark.parametrize("experiment", PAPER)
def test_the_papers_hyperparameters_are_in_every_experiment(experiment):
    options = shipped(experiment)
    policy, rollout = options.policy, options.rollout
    assert options.algorithm.estimator == "reinforce_pp_baseline"
    assert (options.algorithm.clip_low, options.algorithm.clip_high) == (0.2, 0.2)
    assert (options.trainer.questions_per_step, rollout.samples_per_prompt) == (64, 16)
    assert (policy.updates_per_rollout, policy.learning_rate) == (4, 2e-6)
    assert (policy.adam_betas, policy.precision, policy.zero_stage) == ((0.9, 0.95), "bf16", 2)
    assert (rollout.max_prompt_tokens, rollout.max_tokens) == (2048, 29000)
    game = options.environment.search
    assert game.max_turns == 5
    assert [game.turn_tokens(t) for t in ("choice", "math", "qa")] == [1536, 3072, 512]
    assert (rollout.eval_sampling.temperature, rollout.eval_sampling.top_p) == (0.3, 0.5)
    assert options.retrieval.top_k == 10
    assert options.reward.clip == (-10.0, 10.0)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_opens_with_what_it_is(experiment):
    first, *lines = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# ")
