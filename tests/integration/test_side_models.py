"""Reference model and critic: sharded ranks against plain torch, and against each other."""

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ur2.policy.batch.packing import plan
from ur2.types import Sample

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
RANKS = runpy.run_path(str(HERE / "policy_rank.py"))
BASE, TEMPERATURE, make_batch = RANKS["BASE"], RANKS["TEMPERATURE"], RANKS["make_batch"]
HELPERS = runpy.run_path(str(HERE / "test_policy_update.py"))
WORLDS = (1, 2)
CRITIC_LEARNING_RATE, VALUE_CLIP = 0.02, 0.02
KL = ["1/kl-stage0", "2/kl-stage2", "2/kl-stage3"]
GAE = ["1/gae-stage0", "2/gae-stage2", "2/gae-stage3"]
Facts = Mapping[int, Mapping[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank and two ranks left behind."""
    folder = tmp_path_factory.mktemp("side_models")
    HELPERS["make_model"](folder / "untied", tied=False)
    program = HERE / "side_models_rank.py"
    for world_size in WORLDS:
        ranks = HELPERS["start_ranks"](folder, world_size, program)
        HELPERS["wait_for"](ranks, folder / f"world{world_size}")
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> Facts:
    return {n: json.loads((folder / f"world{n}" / "facts.json").read_text()) for n in WORLDS}


def adamw(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": BASE["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=BASE["adam_eps"])


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, BASE["max_grad_norm"])
    optimizer.step()


def chosen_logprobs(model: Any, sample: Sample) -> Tensor:
    ids = torch.from_numpy(sample.token_ids)
    logprobs = (model(ids[None]).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
    return logprobs.gather(1, ids[1:, None])[sample.mask[1:], 0]


def chosen(array: np.ndarray, sample: Sample) -> Tensor:
    return torch.from_numpy(array[sample.mask])


@pytest.mark.parametrize("scenario", KL)
def test_a_divergence_in_the_loss_equals_a_plain_update(
    scenario: str, folder: Path, facts: Facts
) -> None:
    """β·½(log π − log π_ref)² beside the policy gradient, the reference being the first model."""
    model = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32)
    optimizer = adamw(list(model.parameters()), BASE["learning_rate"])
    divergences = []
    for seed in (1, 2):
        loss, divergence, count = torch.zeros(()), 0.0, make_batch(seed).num_policy_tokens
        for sample in make_batch(seed).samples:
            new = chosen_logprobs(model, sample)
            with torch.no_grad():
                log_ratio = new - chosen_logprobs(reference, sample)
                divergence += float(((-log_ratio).exp() - 1 + log_ratio).sum()) / count
            kl = 0.5 * (new - (new.detach() - log_ratio)).square()
            loss = (
                loss
                + (0.5 * kl - (new - new.detach()).exp() * chosen(sample.advantages, sample)).sum()
            )
        divergences.append(divergence)
        take_step(optimizer, loss / count)
    world_size, name = scenario.split("/")
    found = load_file(folder / f"world{world_size}" / name)
    HELPERS["assert_same"]({n: p.detach() for n, p in model.named_parameters()}, found)
    metrics = [update["policy/kl_reference"] for update in facts[int(world_size)][name]]
    assert metrics == pytest.approx(divergences, rel=1e-3, abs=1e-6)
    assert divergences[0] == 0.0
    assert divergences[1] > 1e-4


@pytest.mark.parametrize("scenario", [*KL, "1/bf16-stage0", "2/bf16-stage2", "2/bf16-stage3"])
def test_the_reference_stays_what_the_policy_was(scenario: str, facts: Facts) -> None:
    world_size, name = scenario.split("/")
    of_group = facts[int(world_size)]
    pairs = zip(of_group[f"{name}-before"], of_group[f"{name}-reference"], strict=True)
    for before, reference in pairs:
        assert reference == pytest.approx(before, abs=1e-5)


def plain_critic(folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Values of batch 5 after two rollouts, and the value loss of each update."""
    body = AutoModelForCausalLM.from_pretrained(folder / "untied", dtype=torch.float32).model
    head = nn.Linear(body.config.hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)

    def value(sample: Sample) -> Tensor:
        hidden = body(torch.from_numpy(sample.token_ids)[None]).last_hidden_state[0]
        return head(hidden)[:-1, 0][sample.mask[1:]]

    optimizer = adamw([*body.parameters(), *head.parameters()], CRITIC_LEARNING_RATE)
    losses = []
    for seed in (1, 2):
        batch = make_batch(seed)
        with torch.no_grad():
            old = {s.id: value(s) for s in batch.samples}
        steps = plan(batch, num_updates=2, num_ranks=1, max_tokens_per_microbatch=10**6)
        for step in steps.for_rank(0).steps:
            loss = torch.zeros(())
            for sample in (s for microbatch in step.microbatches for s in microbatch):
                target = old[sample.id] + chosen(sample.advantages, sample)
                new = value(sample)
                held = old[sample.id] + (new - old[sample.id]).clamp(-VALUE_CLIP, VALUE_CLIP)
                worse = torch.maximum((new - target) ** 2, (held - target) ** 2)
                loss = loss + 0.5 * worse.sum() / step.num_tokens
            losses.append(loss.detach())
            take_step(optimizer, loss)
    with torch.no_grad():
        return [value(s) for s in make_batch(5).samples], losses


@pytest.fixture(scope="module")
def critic(folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    return plain_critic(folder)


@pytest.mark.parametrize("scenario", GAE)
def test_the_critic_learns_as_one_in_plain_torch(
    scenario: str, facts: Facts, critic: tuple[list[Tensor], list[Tensor]]
) -> None:
    values, losses = critic
    world_size, name = scenario.split("/")
    of_group = facts[int(world_size)]
    samples = make_batch(5).samples
    for sample, expected, found in zip(samples, values, of_group[f"{name}-values"], strict=True):
        placed = torch.zeros(len(sample.mask))
        placed[torch.from_numpy(sample.mask)] = expected
        torch.testing.assert_close(torch.tensor(found), placed, atol=2e-5, rtol=0)
    assert torch.cat(values).std() > 0.01
    first, second = of_group[name]
    assert first["critic/loss"] == pytest.approx(float(sum(losses[:2])) / 2, rel=1e-4)
    assert second["critic/loss"] == pytest.approx(float(sum(losses[2:])) / 2, rel=1e-4)
    assert second["critic/clip_fraction"] > 0
    assert second["critic/learning_rate"] == CRITIC_LEARNING_RATE


LORA = [scenario.replace("gae", "gae-lora") for scenario in GAE]


def test_a_critic_with_adapters_learns_the_same_on_any_ranks_and_stage(facts: Facts) -> None:
    values = []
    for scenario in LORA:
        world_size, name = scenario.split("/")
        of_group = facts[int(world_size)]
        values.append([x for sample in of_group[f"{name}-values"] for x in sample])
        assert of_group[f"{name}-frozen"] > 0
    assert values[1] == pytest.approx(values[0], abs=2e-5)
    assert values[2] == pytest.approx(values[0], abs=2e-5)
    assert np.std(values[0]) > 0.01


@pytest.mark.parametrize("scenario", GAE + LORA)
def test_a_resumed_critic_goes_on_exactly(scenario: str, facts: Facts) -> None:
    world_size, name = scenario.split("/")
    of_group = facts[int(world_size)]
    assert of_group[f"{name}-resumed"] == of_group[f"{name}-values"]


@pytest.mark.parametrize("world_size", WORLDS)
def test_without_divergence_and_critic_neither_model_is_there(
    world_size: int, facts: Facts
) -> None:
    assert facts[world_size]["side models of a plain run"] == []
