"""DeepSpeed ranks against a plain single-process update, and against each other."""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.model.lora import add_adapters, weights_of
from ur2.policy.options import LoraOptions
from ur2.types import Batch, Sample

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("policy_rank.py")
SHARED = runpy.run_path(str(PROGRAM))
TEMPERATURE = SHARED["TEMPERATURE"]
make_batch = SHARED["make_batch"]
Weights = Mapping[str, Tensor]
Facts = Mapping[str, Any]
TIMEOUT_S = 300.0
HANDED_OVER = [
    *(f"{kind}-stage{stage}" for kind in ("untied", "tied") for stage in (2, 3)),
    "untied-lora",
    "tied-lora",
]


def make_model(folder: Path, *, tied: bool) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=SHARED["VOCAB"],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def start_ranks(
    folder: Path, world_size: int, program: Path = PROGRAM
) -> list[subprocess.Popen[bytes]]:
    (folder / f"world{world_size}").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(world_size), str(port), folder],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"world{world_size}" / f"rank{rank}.log").open("wb"),
        )
        for rank in range(world_size)
    ]


def wait_for(ranks: list[subprocess.Popen[bytes]], out: Path) -> None:
    try:
        for number, rank in enumerate(ranks):
            assert rank.wait(TIMEOUT_S) == 0, (out / f"rank{number}.log").read_text()[-4000:]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank and two ranks left behind."""
    folder = tmp_path_factory.mktemp("policy")
    for name in ("untied", "tied"):
        make_model(folder / name, tied=name == "tied")
    groups = {n: start_ranks(folder, n) for n in (1, 2)}
    for world_size, ranks in groups.items():
        wait_for(ranks, folder / f"world{world_size}")
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    return {n: json.loads((folder / f"world{n}" / "facts.json").read_text()) for n in (1, 2)}


@pytest.fixture(scope="module")
def weights(folder: Path) -> Mapping[str, Weights]:
    """Weights by `<world size>/<scenario>`."""
    return {
        f"{n}/{path.name}": load_file(path)
        for n in (1, 2)
        for path in (folder / f"world{n}").iterdir()
        if path.is_file() and not path.suffix
    }


def logits(model: Any, ids: np.ndarray) -> Tensor:
    return model(torch.from_numpy(ids)[None]).logits[0].float() / TEMPERATURE


def reference_loss(model: Any, batch: Batch, algorithm: AlgorithmOptions) -> Tensor:
    """The whole loss, one sequence at a time, from all logits; on-policy, so the ratio is 1."""
    samples = [s for s in batch.samples if s.mask.any()]
    num_tokens = sum(int(s.mask.sum()) for s in samples)
    total = torch.zeros(())
    for sample in samples:
        mask = torch.from_numpy(sample.mask)[1:]
        logprobs = logits(model, sample.token_ids)[:-1].log_softmax(-1)
        chosen = logprobs.gather(1, torch.from_numpy(sample.token_ids)[1:, None])[mask, 0]
        advantages = torch.from_numpy(sample.advantages)[1:][mask]
        loss = -(chosen - chosen.detach()).exp() * advantages
        if algorithm.correction == "tis":
            sampler = torch.from_numpy(sample.sampler_logprobs)[1:][mask]
            loss = loss * (chosen.detach() - sampler).exp().clamp(max=algorithm.correction_cap)
        scale = {
            "token_mean": 1 / num_tokens,
            "seq_mean_token_mean": 1 / (len(chosen) * len(samples)),
            "seq_mean_token_sum_norm": 1 / (algorithm.norm_length * len(samples)),
        }[algorithm.reduction]
        total = total + loss.sum() * scale
    return total


def reference(
    folder: Path, algorithm: AlgorithmOptions, *, muon: bool = False
) -> tuple[Weights, list[float]]:
    """Weights and gradient norms after two updates in plain torch."""
    base = SHARED["BASE"]
    model = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    named = dict(model.named_parameters())
    hidden = {name for name in named if muon and re.search("proj.weight", name)}
    others = [p for name, p in named.items() if name not in hidden]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=base["learning_rate"], betas=(0.9, 0.95), eps=base["adam_eps"])
    ]
    if hidden:
        matrices = [named[name] for name in sorted(hidden)]
        optimizers.append(torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1))
    norms = []
    for seed in (1, 2):
        model.zero_grad()
        reference_loss(model, make_batch(seed), algorithm).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), base["max_grad_norm"])
        norms.append(float(norm))
        for optimizer in optimizers:
            optimizer.step()
    return {name: p.detach() for name, p in named.items()}, norms


def assert_same(one: Weights, other: Weights, atol: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            other[name].float(), value.float(), atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_logprobs(model: Any, sample: Sample, found: list[float]) -> None:
    with torch.no_grad():
        logprobs = logits(model, sample.token_ids)[:-1].log_softmax(-1)
    chosen = logprobs.gather(1, torch.from_numpy(sample.token_ids)[1:, None])[:, 0]
    expected = torch.cat([torch.zeros(1), chosen]) * torch.from_numpy(sample.mask)
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-5, rtol=0)


def distance(one: Weights, other: Weights) -> float:
    return max(float((one[n].float() - other[n].float()).abs().max()) for n in one)


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Weights, list[float]]:
    return reference(folder, AlgorithmOptions())


SAME_UPDATE = [
    *(f"1/stage{n}" for n in (0, 2, 3)),
    *(f"2/stage{n}" for n in (0, 1, 2, 3)),
    "2/small-microbatches",
    "2/small-chunks",
    "2/recomputed",
]


@pytest.mark.parametrize("scenario", SAME_UPDATE)
def test_sharding_and_splitting_equal_a_plain_update(
    scenario: str, weights: Mapping[str, Weights], plain: tuple[Weights, list[float]], facts: Facts
) -> None:
    assert_same(plain[0], weights[scenario])
    world_size, name = scenario.split("/")
    norms = [update["policy/grad_norm"] for update in facts[int(world_size)][name]]
    assert norms == pytest.approx(plain[1], rel=1e-4)
    assert min(norms) > SHARED["BASE"]["max_grad_norm"], "clipping is not exercised"


@pytest.mark.parametrize("reduction", ["seq_mean_token_mean", "seq_mean_token_sum_norm"])
def test_other_reductions_and_corrections_reach_the_update(
    reduction: str, folder: Path, weights: Mapping[str, Weights], plain: tuple[Weights, Any]
) -> None:
    algorithm = AlgorithmOptions(reduction=reduction, correction="tis", correction_cap=1.05)  # type: ignore[arg-type]
    expected, _ = reference(folder, algorithm)
    assert_same(expected, weights[f"2/{reduction}"])
    assert distance(expected, plain[0]) > 1e-4


def test_several_updates_per_rollout_do_not_depend_on_ranks(
    weights: Mapping[str, Weights], facts: Facts
) -> None:
    assert_same(weights["1/three-updates"], weights["2/three-updates"])
    for first, second in zip(facts[1]["three-updates"], facts[2]["three-updates"], strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-6)
    last = facts[2]["three-updates"][1]
    assert last["policy/optimizer_steps"] == 6
    assert last["policy/kl_old_new"] > 0


@pytest.mark.parametrize("world_size", [1, 2])
def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(
    world_size: int, folder: Path, weights: Mapping[str, Weights], plain: tuple[Weights, Any]
) -> None:
    expected, _ = reference(folder, AlgorithmOptions(), muon=True)
    # Muon orthogonalises in bfloat16, so that the order of a sum shows at its precision
    assert_same(expected, weights[f"{world_size}/muon"], atol=1e-3)
    assert distance(expected, plain[0]) > 5e-3


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_stays_close_to_fp32(
    stage: int, weights: Mapping[str, Weights], plain: tuple[Weights, Any]
) -> None:
    assert_same(plain[0], weights[f"2/bf16-stage{stage}"], atol=0.02)


def test_metrics_describe_the_batch(facts: Facts, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    batch = make_batch(1)
    with torch.no_grad():
        loss = float(reference_loss(model, batch, AlgorithmOptions()))
        entropies, deltas = [], []
        for sample in batch.samples:
            mask = torch.from_numpy(sample.mask)[1:]
            logprobs = logits(model, sample.token_ids)[:-1].log_softmax(-1)
            entropies.append(-(logprobs.exp() * logprobs).sum(-1)[mask])
            chosen = logprobs.gather(1, torch.from_numpy(sample.token_ids)[1:, None])[:, 0]
            deltas.append((chosen - torch.from_numpy(sample.sampler_logprobs)[1:])[mask])
    delta = torch.cat(deltas)
    for world_size in (1, 2):
        first = facts[world_size]["stage2"][0]
        assert first == pytest.approx(
            {
                "policy/loss": loss,
                "policy/entropy": float(torch.cat(entropies).mean()),
                "policy/clip_fraction": 0.0,
                "policy/kl_old_new": 0.0,
                "mismatch/kl": float((delta.exp() - 1 - delta).mean()),
                "mismatch/is_max": float(delta.exp().max()),
                "policy/grad_norm": first["policy/grad_norm"],
                "policy/learning_rate": 0.01,
                "policy/optimizer_steps": 1.0,
            },
            rel=1e-4,
            abs=1e-6,
        )


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_loss_that_is_not_finite_names_its_sample_and_moves_nothing(
    stage: int, weights: Mapping[str, Weights], plain: tuple[Weights, Any], facts: Facts
) -> None:
    message, *ids = facts[2][f"refuse-stage{stage}"]
    assert ids == ["sample-3"]
    assert re.search(r"loss of 1 samples is not finite \(sample-3\)", message)
    name = f"2/refuse-stage{stage}"
    assert distance(weights[f"{name}-before"], weights[f"{name}-after"]) == 0.0
    assert_same(plain[0], weights[f"{name}-continued"])


@pytest.mark.parametrize(
    "name", ["2/resume-stage2", "2/resume-stage3", "2/resume-lora", "1/resume-muon"]
)
def test_a_resumed_run_equals_one_that_never_stopped(
    name: str, weights: Mapping[str, Weights], facts: Facts
) -> None:
    assert distance(weights[f"{name}-through"], weights[f"{name}-resumed"]) == 0.0
    world_size, scenario = name.split("/")
    (update,) = facts[int(world_size)][scenario]
    assert update["policy/optimizer_steps"] == 2
    assert update["policy/learning_rate"] == pytest.approx(0.01 * 2 / 3)


def adapted_reference(folder: Path) -> Weights:
    """Merged weights after two updates of adapters in plain torch."""
    base = SHARED["BASE"]
    model = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    add_adapters(model, LoraOptions.load(SHARED["LORA"], where="lora"), seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=base["learning_rate"], betas=(0.9, 0.95), eps=base["adam_eps"], weight_decay=0.1
    )
    for seed in (1, 2):
        model.zero_grad()
        reference_loss(model, make_batch(seed), AlgorithmOptions()).backward()
        torch.nn.utils.clip_grad_norm_(trained, base["max_grad_norm"])
        optimizer.step()
    return {weight.name: weight.merged() for weight in weights_of(model)}


@pytest.mark.parametrize(
    "scenario", ["1/lora-stage2", *(f"2/lora-stage{stage}" for stage in (0, 1, 2, 3))]
)
def test_adapters_learn_as_in_a_plain_update_and_leave_merged(
    scenario: str, folder: Path, weights: Mapping[str, Weights], adapted: Weights
) -> None:
    assert_same(adapted, weights[scenario])
    source = load_file(folder / "untied" / "model.safetensors")
    moved = {name for name, value in adapted.items() if not torch.equal(value, source[name])}
    assert moved == {name for name in source if re.search(r"_proj\.weight", name)}


def test_adapters_of_recomputed_bf16_layers_stay_close(
    weights: Mapping[str, Weights], adapted: Weights
) -> None:
    assert_same(adapted, weights["2/lora-bf16"], atol=0.02)


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Weights:
    return adapted_reference(folder)


@pytest.mark.parametrize("stage", [2, 3])
def test_the_reference_of_adapters_is_their_base_and_stays_it(
    stage: int, folder: Path, facts: Facts
) -> None:
    found = facts[2][f"lora-kl-stage{stage}"]
    first, second = found["kl"]
    assert first == pytest.approx(0.0, abs=1e-7)
    assert second > 1e-5
    assert found["reference_moved"] == 0.0
    model = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    for sample, values in zip(make_batch(5).samples, found["reference"], strict=True):
        assert_logprobs(model, sample, values)


@pytest.mark.parametrize("name", HANDED_OVER)
def test_weights_leave_under_their_hugging_face_names(name: str, folder: Path) -> None:
    source = load_file(folder / name.split("-")[0] / "model.safetensors")
    published = folder / "world2" / f"{name}.published"
    assert {p.name for p in published.iterdir()} == {"weights-00000.safetensors"}
    exported = load_file(folder / "world2" / f"{name}.exported" / "model.safetensors")
    assert load_file(published / "weights-00000.safetensors").keys() == source.keys()
    assert_same(exported, load_file(published / "weights-00000.safetensors"), atol=0.0)
    assert distance(source, exported) > 1e-4


@pytest.mark.parametrize("name", HANDED_OVER)
def test_an_exported_folder_computes_the_same_logprobs(
    name: str, folder: Path, facts: Facts
) -> None:
    exported = folder / "world2" / f"{name}.exported"
    assert (exported / "tokenizer.json").read_text() == "{}"
    assert (exported / "chat_template.jinja").exists()
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    for sample, found in zip(make_batch(5).samples, facts[2][name], strict=True):
        assert_logprobs(model, sample, found)


def test_what_cannot_work_is_refused_with_the_remedy(facts: Facts) -> None:
    assert "no policy checkpoint" in facts[2]["no-checkpoint"]
    assert "zero_stage=0" in facts[2]["sharded-muon"]
