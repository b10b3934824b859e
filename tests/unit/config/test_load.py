from pathlib import Path

import pytest

from ur2.config.load import CONFIGS, compose
from ur2.config.preflight import check_options, num_gpus
from ur2.config.problems import option_problems, weight_transfer
from ur2.errors import InputError
from ur2.trainer.cluster.placement import Demand, Machine, plan

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_experiment_composes_and_loads(experiment: str) -> None:
    options = compose([f"+experiment={experiment}"])
    assert options.experiment == experiment


GROUPS = sorted(
    path.name
    for path in CONFIGS.iterdir()
    if path.is_dir() and path.name not in ("benchmark", "experiment")
)


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_a_group_fits_an_experiment(group: str) -> None:
    choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert choices
    for choice in choices:
        compose(["+experiment=quickstart", f"{group}={choice}"])


def test_the_command_line_beats_the_experiment() -> None:
    options = compose(["+experiment=quickstart", "curriculum=never", "trainer.steps=3"])
    assert options.curriculum.policy == "never"
    assert options.trainer.steps == 3


def test_a_key_that_no_file_sets_can_be_overridden() -> None:
    options = compose(["+experiment=quickstart", "policy.max_grad_norm=0.5"])
    assert options.policy.max_grad_norm == 0.5


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trainer.stepz=3", "trainer.steps"),
        ("policy.learning_rat=1", "policy.learning_rate"),
        ("+trainer.stepz=3", "steps"),
        ("trainer.steps=many", "trainer.steps"),
        ("trainer.steps=1.5", "trainer.steps"),
        ("policy.zero_stage=7", "policy.zero_stage"),
        ("algorithm=gpro", "grpo"),
        ("+reward.terms.correct.weigth=2", "weight"),
        ("seed=-1", "seed"),
        ("run_dir=a=b", "run_dir=a=b"),
    ],
)
def test_a_wrong_override_is_one_error_that_names_the_key(override: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        compose(["+experiment=quickstart", override])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_experiment_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="quickstart"):
        compose(["+experiment=quickstrat"])


def test_no_experiment_says_which_there_are() -> None:
    with pytest.raises(InputError, match=r"\+experiment=.*quickstart"):
        compose([])


def test_configs_hold_no_machine_paths() -> None:
    for path in Path(CONFIGS).rglob("*.yaml"):
        for line in path.read_text().splitlines():
            value = line.partition("#")[0].partition(":")[2].strip()
            assert not value.startswith("/"), f"{path}: {line}"


@pytest.mark.parametrize(
    ("overrides", "correction"),
    [
        ([], "none"),
        (["trainer.mode=async"], "tis"),
        (["trainer.mode=one_step_off"], "tis"),
        (["trainer.num_extra_groups=2"], "tis"),
        (["trainer.mode=async", "trainer.max_staleness=0"], "none"),
        (["trainer.num_extra_groups=2", "trainer.tail=give_up"], "none"),
        (["trainer.mode=async", "algorithm.correction=none"], "none"),
        (["trainer.mode=async", "algorithm.correction=icepop"], "icepop"),
    ],
)
def test_stale_samples_are_corrected_unless_the_user_says_otherwise(
    overrides: list[str], correction: str
) -> None:
    options = compose(["+experiment=quickstart", *overrides])
    assert options.algorithm.correction == correction


def test_a_run_without_a_retriever_may_never_search() -> None:
    never = ["curriculum=never", "trainer.eval_retrieval=false"]
    check_options(compose(["+experiment=quickstart", "retrieval=none", *never]))
    for overrides in (never[:1], never[1:]):
        with pytest.raises(InputError, match=r"retrieval\.backend 'none'"):
            check_options(compose(["+experiment=quickstart", "retrieval=none", *overrides]))


def test_a_stage_names_a_reward_that_is_there() -> None:
    stages = ["+experiment=math_rag_stage2_qwen7b", "curriculum=ur2"]
    named = "+reward@rewards.search_activation=ur2_stage1_qwen7b"
    options = compose([*stages, named])
    check_options(options)
    assert options.reward_of("search_activation").min_searches
    assert options.reward_of(None) == options.reward
    with pytest.raises(InputError, match=r"stages.search_activation.reward.*there are none"):
        check_options(compose(stages))


def test_a_key_below_one_that_is_not_set_is_added_as_the_error_says() -> None:
    with pytest.raises(InputError, match=r"write \+policy\.lora\.rank=VALUE"):
        compose(["+experiment=quickstart", "policy.lora.rank=8"])
    lora = compose(["+experiment=quickstart", "+policy.lora.rank=8"]).policy.lora
    assert lora is not None
    assert lora.rank == 8


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trainer.mode=async"], "trainer.mode=async samples while the policy is updated"),
        (["trainer.mode=one_step_off"], "trainer.mode=one_step_off"),
        (["policy.num_ranks=4"], "4 x 1 must equal"),
        (["rollout.engine.tensor_parallel_size=2"], "num_gpus_per_rollout_worker=1 must equal"),
        (["trainer.mode=async", "trainer.max_staleness=0"], None),
        ([], None),
    ],
)
def test_a_colocated_run_shares_every_gpu_and_waits_for_the_update(
    overrides: list[str], named: str | None
) -> None:
    chosen = ["+experiment=medqa_qwen7b", "cluster=node_8gpu_colocated", *overrides]
    if named is None:
        assert not list(option_problems(compose(chosen)))
        return
    (problem,) = option_problems(compose(chosen))
    assert named in problem


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("local", "files"),
        ("node_8gpu", "nccl"),
        ("nodes_2x8gpu", "nccl"),
        ("node_8gpu_colocated", "ipc"),
    ],
)
def test_weights_take_the_way_that_the_cluster_offers(cluster: str, expected: str) -> None:
    chosen = ["+experiment=medqa_qwen7b", f"cluster={cluster}"]
    assert weight_transfer(compose(chosen)) == "files"
    assert weight_transfer(compose([*chosen, "policy.weight_transfer=auto"])) == expected
    impossible = "nccl" if expected != "nccl" else "tcp"
    (problem,) = option_problems(compose([*chosen, f"policy.weight_transfer={impossible}"]))
    assert f"policy.weight_transfer={impossible}" in problem


@pytest.mark.parametrize(
    ("cluster", "num_nodes", "per_node"),
    [("node_8gpu", 1, 8), ("node_8gpu_colocated", 1, 8), ("nodes_2x8gpu", 2, 8)],
)
def test_a_shipped_cluster_holds_the_run_that_it_configures(
    cluster: str, num_nodes: int, per_node: int
) -> None:
    options = compose(["+experiment=medqa_qwen7b", f"cluster={cluster}"])
    assert not list(option_problems(options))
    assert num_gpus(options) == num_nodes * per_node
    wanted = Demand(
        options=options.cluster,
        num_ranks=options.policy.num_ranks,
        num_engines=options.rollout.num_workers,
    )
    nodes = [Machine(id=str(i), address=str(i), gpus=per_node, cpus=64) for i in range(num_nodes)]
    assert plan(wanted, nodes)
    assert not plan(wanted, nodes[1:])


def test_keys_of_open_options_need_no_plus():
    options = compose(
        ["+experiment=smoke", "environment.options.a=1", "prompt.chat_template_kwargs.x=true"]
    )
    assert options.environment.options == {"a": 1}
    assert options.prompt.chat_template_kwargs == {"x": True}
    with pytest.raises(InputError, match=r"unknown key 'reward\.terms\.correct\.wieght'"):
        compose(["+experiment=smoke", "reward.terms.correct.wieght=2"])


def test_a_credit_rule_that_does_not_exist_is_refused_before_anything_starts():
    options = compose(["+experiment=smoke", "algorithm.credit=contxt"])
    with pytest.raises(InputError, match=r"algorithm\.credit.*did you mean 'context'"):
        check_options(options)
