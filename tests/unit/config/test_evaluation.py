import json
import os
from pathlib import Path

import pytest

from ur2.benchmarks.store import EvaluationFolder
from ur2.config.evaluation import evaluation_settings, load_benchmarks
from ur2.config.load import CONFIGS, compose, compose_evaluation
from ur2.config.measuring import model_of, resolve_model
from ur2.config.preflight import check_options
from ur2.errors import InputError
from ur2.evaluate import default_out, evaluate

BENCHMARKS = sorted(path.stem for path in (CONFIGS / "benchmark").glob("*.yaml"))
COUNTS = {
    "bamboogle": 125,
    "hotpotqa": 500,
    "wiki2": 500,
    "musique": 500,
    "math500": 500,
    "minerva": 272,
    "mmlu_pro": 1880,
    "medqa": 500,
    "mmlu_pro_med": 500,
}
QUICK = ["+benchmark=atlas", "+experiment=quickstart", "engine=hf"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_shipped_benchmark_composes_with_the_papers_sampling(benchmark: str) -> None:
    options = compose_evaluation(["checkpoint=x", f"+benchmark={benchmark}"])
    sampling = options.rollout.eval_sampling
    assert (sampling.temperature, sampling.top_p, sampling.seeded) == (0.3, 0.5, True)


def test_all_is_the_nine_of_the_paper_and_every_published_row_is_one_that_is_measured() -> None:
    options = compose_evaluation(["checkpoint=x", "+benchmark=all"])
    assert set(options.benchmarks) == set(COUNTS)
    assert set(options.averages["open_qa"].of) <= set(COUNTS)
    for benchmark in options.benchmarks.values():
        for rows in benchmark.published.values():
            assert benchmark.parts is not None or set(rows) <= set(benchmark.metrics)


def test_an_experiment_lends_its_prompts_and_the_command_line_has_the_last_word() -> None:
    options = compose_evaluation(["checkpoint=x", *QUICK, "rollout.eval_sampling.temperature=0"])
    assert options.prompt.protocol.search.open == "<search>"
    assert options.rollout.eval_sampling.temperature == 0
    assert options.precision == compose(["+experiment=quickstart"]).policy.precision


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["checkpoint=x"], "choose a benchmark: +benchmark=all|"),
        (["+benchmark=atlas"], "checkpoint=PATH"),
        (["checkpoint=x", "+benchmark=atals"], "atlas"),
        (["checkpoint=x", "+benchmark=atlas", "limti=3"], "limit"),
        (["checkpoint=x", "+benchmark=atlas", "limit=0"], "limit"),
        (["checkpoint=x", "+benchmark=atlas", "+benchmarks.atlas.metric=f1"], "metrics"),
    ],
)
def test_a_wrong_command_is_one_error_that_names_the_key(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError) as caught:
        compose_evaluation(overrides)
    assert named in str(caught.value)


def test_training_refuses_a_remote_engine() -> None:
    with pytest.raises(InputError, match="training cannot replace"):
        check_options(compose(["+experiment=quickstart", "engine=remote"]))


def test_a_checkpoint_is_a_run_a_step_a_folder_or_a_name(tmp_path: Path) -> None:
    steps = [tmp_path / "run" / "checkpoints" / f"step_{step:06d}" for step in (5, 10)]
    for step in steps:
        (step / "model").mkdir(parents=True)
    newest = str(steps[1] / "model")
    assert model_of(str(tmp_path / "run")) == newest
    assert model_of(str(steps[1])) == newest
    assert model_of(newest) == newest
    assert model_of("owner/name") == "owner/name"
    (tmp_path / "fresh" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="no checkpoint yet"):
        model_of(str(tmp_path / "fresh"))


def test_results_of_a_checkpoint_have_a_place_inside_the_runs_folder() -> None:
    assert default_out("../runs/a b/step_1/") == "runs/evaluation/runs-a-b-step_1"


CHAT = [
    "checkpoint=gpt",
    "engine=remote",
    "rollout.engine.remote.url=http://127.0.0.1:1/v1",
    "rollout.engine.remote.api=chat",
    "search=false",
]


def test_the_real_files_load_whole_with_the_papers_prompts(
    shared_files: Path, tmp_path: Path
) -> None:
    for path in shared_files.glob("*/*.jsonl"):
        (tmp_path / path.name).symlink_to(path)
    options = compose_evaluation([*CHAT, "+benchmark=all", f"data_dir={tmp_path}"])
    loaded = load_benchmarks(resolve_model(options))
    assert {one.name: len(one.questions) for one in loaded} == COUNTS


@pytest.fixture
def shared_files() -> Path:
    shared = Path(os.environ.get("UR2_SHARED_DATA", CONFIGS.parents[1] / "shared" / "data"))
    if not (shared / "ur2_reference").is_dir():
        pytest.skip(f"the evaluation files are not in {shared}; set UR2_SHARED_DATA")
    return shared / "ur2_reference"


@pytest.fixture
def question_file(tmp_path: Path) -> Path:
    row = {"id": "a", "task": "qa", "text": "Where?", "answers": ["Paris"], "level": "easy"}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_dry_run_checks_everything_and_writes_nothing(
    question_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    overrides = [*CHAT, "+benchmark=atlas", f"benchmarks.atlas.file={question_file}"]
    evaluate(compose_evaluation([*overrides, f"out={out}", "dry_run=true"]))
    assert "1 of 1" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["benchmarks.atlas.file=nowhere.jsonl"], "benchmarks.atlas.file: 'nowhere.jsonl'"),
        (["benchmarks.atlas.file=data/ur2/nowhere.jsonl"], "scripts/download_data.sh"),
        (["benchmarks.atlas.task=math", "benchmarks.atlas.metrics=[judge]"], "is a 'qa' task"),
        (["search=true"], "retrieval.index is required"),
        (["rollout.max_prompt_tokens=5"], "max_prompt_tokens"),
        (["rollout.engine.remote.url=null"], "remote.url is required"),
        (["rollout.engine.remote.key_variable=UR2_NO_SUCH"], "UR2_NO_SUCH is not set"),
        (["rollout.eval_sampling.top_k=5"], "chat endpoints have no top_k (it is 5)"),
        (["rollout.engine.remote.api=completions"], "checkpoint: 'gpt' does not exist"),
    ],
)
def test_bad_input_is_named_before_anything_starts(
    question_file: Path, tmp_path: Path, overrides: list[str], named: str
) -> None:
    given = [*CHAT, "+benchmark=atlas", f"benchmarks.atlas.file={question_file}", *overrides]
    unique = {override.partition("=")[0]: override for override in given}
    with pytest.raises(InputError) as caught:
        evaluate(compose_evaluation([*unique.values(), f"out={tmp_path / 'out'}"]))
    assert named in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_results_made_otherwise_are_never_mixed(question_file: Path, tmp_path: Path) -> None:
    given = [*CHAT, "+benchmark=atlas", f"benchmarks.atlas.file={question_file}"]
    store = EvaluationFolder(str(tmp_path))
    store.open(evaluation_settings(compose_evaluation(given)))
    store.check(
        evaluation_settings(compose_evaluation([*given, "limit=3", "cluster.call_timeout_s=1"]))
    )
    for change, named in (
        ("seed=1", "seed"),
        ("prompt=search_r1", "prompt"),
        ("rollout.eval_sampling.top_p=1", "rollout.eval_sampling"),
        ("benchmarks.atlas.metrics=[f1]", r"benchmarks\.atlas"),
        ("rollout.engine.remote.model=another", "engine.remote.model"),
        ("judge.url=http://127.0.0.1:1/v1", "judge.model"),
    ):
        with pytest.raises(InputError, match=f"another {named}:"):
            store.check(evaluation_settings(compose_evaluation([*given, change])))


@pytest.mark.parametrize(
    ("given", "moved", "changed", "named"),
    [
        ([], "rollout.engine.remote.url=http://node7:2/v1", "seed=1", "seed"),
        (["judge.url=http://h:1/v1"], "judge.url=http://h:2/v1", "judge.model=b", "judge.model"),
        (
            ["search=true", "retrieval=http", "retrieval.url=http://h:1"],
            "retrieval.url=http://h:2",
            "retrieval.top_k=9",
            "retrieval.top_k",
        ),
        (
            ["search=true", "retrieval=web", "retrieval.web.url=http://h:1"],
            "retrieval.web.url=http://h:2",
            "retrieval.web.provider=bing",
            "retrieval.web",
        ),
        (
            [
                "search=true",
                "retrieval=http",
                "retrieval.url=http://h:1",
                "+retrieval.summariser={endpoint:{url:http://h:3/v1,model:a}}",
            ],
            "retrieval.summariser.endpoint.url=http://h:4/v1",
            "retrieval.summariser.endpoint.model=b",
            "retrieval.summariser",
        ),
    ],
)
def test_a_service_that_answers_elsewhere_now_is_the_same_and_another_model_is_not(
    question_file: Path, tmp_path: Path, given: list[str], moved: str, changed: str, named: str
) -> None:
    base = [option for option in CHAT if not option.startswith("search")]
    base += ["+benchmark=atlas", f"benchmarks.atlas.file={question_file}", *given]
    store = EvaluationFolder(str(tmp_path))
    store.open(evaluation_settings(compose_evaluation(base)))
    store.check(evaluation_settings(compose_evaluation([*base, moved])))
    with pytest.raises(InputError, match=f"another {named}:"):
        store.check(evaluation_settings(compose_evaluation([*base, changed])))
