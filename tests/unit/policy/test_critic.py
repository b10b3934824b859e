"""The critic reads packed rows like the policy, and looks at nothing that is yet to come."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from ur2.algorithms.options import AlgorithmOptions
from ur2.policy.batch.microbatch import collate
from ur2.policy.batch.packing import plan
from ur2.policy.critic import Critic, critic_options
from ur2.policy.model.models import CriticModel
from ur2.policy.options import PolicyOptions
from ur2.types import Batch, Sample


def make_model() -> CriticModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        initializer_range=0.3,
    )
    return CriticModel(Qwen2ForCausalLM(config))


@pytest.fixture(scope="module")
def model() -> CriticModel:
    """One that has learned something."""
    model = make_model()
    torch.nn.init.normal_(model.head.weight)
    return model


def make_sample(pattern: str, seed: int) -> Sample:
    """`p` is a policy token."""
    mask = np.array([c == "p" for c in pattern])
    return Sample(
        id=str(seed),
        token_ids=np.random.default_rng(seed).integers(0, 50, len(pattern)),
        mask=mask,
        advantages=np.zeros(len(pattern), dtype=np.float32),
        sampler_logprobs=np.zeros(len(pattern), dtype=np.float32),
    )


def values(model: CriticModel, *samples: Sample) -> Tensor:
    inputs = collate(samples, torch.device("cpu"))
    with torch.no_grad():
        return model(inputs.row, inputs.position_N)


def test_it_begins_by_expecting_nothing() -> None:
    assert values(make_model(), make_sample("..pp.p", 0)).tolist() == [0.0, 0.0, 0.0]


def test_a_value_knows_the_tokens_before_its_own_and_no_others(model: CriticModel) -> None:
    sample = make_sample("..pp..p", 1)
    plain = values(model, sample)
    for changed, unmoved in ((1, []), (2, [0]), (3, [0, 1]), (5, [0, 1]), (6, [0, 1, 2])):
        ids = sample.token_ids.copy()
        ids[changed] = (ids[changed] + 1) % 50
        moved = values(model, replace(sample, token_ids=ids))
        assert torch.equal(moved == plain, torch.tensor([i in unmoved for i in range(3)]))


def test_company_in_a_row_changes_no_value(model: CriticModel) -> None:
    samples = [make_sample("..pp..ppp", 1), make_sample(".p", 2), make_sample("...ppp", 3)]
    alone = torch.cat([values(model, sample) for sample in samples])
    torch.testing.assert_close(values(model, *samples), alone, atol=1e-5, rtol=0)
    assert alone.std() > 0.1


def test_it_learns_at_its_own_rate_and_always_with_adamw() -> None:
    options = critic_options(
        PolicyOptions(learning_rate=1e-6, critic_learning_rate=3e-5, optimizer="muon")
    )
    assert (options.learning_rate, options.optimizer) == (3e-5, "adamw")


class ZeroEngine:
    """Expects nothing of any token, and notes what it is to learn."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.losses: list[float] = []

    def forward(self, row: object, position_N: Tensor) -> Tensor:
        return torch.zeros(len(position_N), requires_grad=True)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.losses.append(loss.item())

    def step(self, factor: float) -> tuple[float, bool]:
        return 0.0, True


@pytest.mark.parametrize(("carried", "expected"), [(True, 0.5 * 2.0**2), (False, 0.5 * 3.0**2)])
def test_it_learns_the_return_and_not_a_whitened_advantage(carried: bool, expected: float) -> None:
    ones = np.ones(4, dtype=np.float32)
    sample = replace(make_sample(".ppp", 1), advantages=3 * ones, values=0 * ones)
    if carried:
        sample = replace(sample, returns=2 * ones)
    (step,) = (
        plan(Batch(samples=(sample,)), num_updates=1, num_ranks=1, max_tokens_per_microbatch=64)
        .for_rank(0)
        .steps
    )
    engine = ZeroEngine()
    Critic(cast(Any, engine), AlgorithmOptions(estimator="gae", value_clip=None)).step(step, 1.0)
    assert sum(engine.losses) == pytest.approx(expected)
