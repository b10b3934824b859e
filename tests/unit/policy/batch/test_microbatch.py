"""Collation, and what may and may not reach the gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from ur2.algorithms.options import AlgorithmOptions
from ur2.algorithms.reductions import Denominators
from ur2.policy.batch.microbatch import collate
from ur2.policy.loss import microbatch_loss
from ur2.policy.model.attention import PACKED
from ur2.policy.model.models import PolicyModel
from ur2.types import Sample

CPU = torch.device("cpu")
COUNTS = Denominators(num_tokens=10, num_sequences=4, norm_length=100)


@pytest.fixture(scope="module")
def model() -> PolicyModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return PolicyModel(Qwen2ForCausalLM(config), temperature=1.0, chunk_tokens=4)


def make_sample(name: str, pattern: str, seed: int = 0) -> Sample:
    """`p` is a policy token; documents and prompts (`.`) get numbers that must not be read."""
    random = np.random.default_rng(seed)
    mask = np.array([c == "p" for c in pattern])
    size = len(pattern)
    return Sample(
        id=name,
        token_ids=random.integers(0, 50, size),
        mask=mask,
        advantages=np.where(mask, random.normal(size=size), np.nan).astype(np.float32),
        sampler_logprobs=np.where(mask, -random.random(size), np.nan).astype(np.float32),
    )


def loss_of(model: PolicyModel, samples: list[Sample], **options: object) -> Tensor:
    inputs = collate(samples, CPU)
    logprob_N, entropy_N = model(inputs.row, inputs.position_N, inputs.target_N)
    loss, _ = microbatch_loss(
        logprob_N, entropy_N, inputs, None, AlgorithmOptions(**options), COUNTS
    )
    return loss


def gradient_of(model: PolicyModel, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_collation_by_hand() -> None:
    one, two = make_sample("one", "..p.pp..", 1), make_sample("two", ".p", 2)
    inputs = collate([one, two], CPU)
    assert inputs.row.input_ids_T.tolist() == [*one.token_ids[:5], two.token_ids[0]]
    assert inputs.row.position_ids_T.tolist() == [0, 1, 2, 3, 4, 0]
    assert inputs.row.offset_S.tolist() == [0, 5, 6]
    assert inputs.row.lengths == (5, 1)
    assert inputs.position_N.tolist() == [1, 3, 4, 5]
    assert inputs.target_N.tolist() == [*one.token_ids[[2, 4, 5]], two.token_ids[1]]
    assert inputs.sequence_N.tolist() == [0, 0, 0, 1]
    assert inputs.length_B.tolist() == [3, 1]
    assert inputs.advantage_N.isfinite().all()


def test_allowed_ids_follow_their_tokens_into_the_microbatch() -> None:
    one, two = make_sample("one", "..p.pp..", 1), make_sample("two", ".pp", 2)
    assert collate([one, two], CPU).allowed_2M is None
    one = replace(one, allowed={4: (7, 9), 6: (1, 2)})  # the last is not trained on
    two = replace(two, allowed={2: (5,)})
    inputs = collate([one, two], CPU)
    assert inputs.allowed_2M is not None
    assert inputs.allowed_2M.T.tolist() == [[1, 7], [1, 9], [4, 5]]


def test_packing_does_not_change_restricted_logprobs(model: PolicyModel) -> None:
    samples = [
        replace(make_sample(str(seed), "..pp.p", seed), allowed={3: (7, 9), 5: (1, 2, 3)})
        for seed in range(3)
    ]
    for sample in samples:
        sample.token_ids[[3, 5]] = 9, 1

    def logprobs(chosen: list[Sample]) -> Tensor:
        inputs = collate(chosen, CPU)
        found: Tensor = model(inputs.row, inputs.position_N, inputs.target_N, inputs.allowed_2M)[0]
        return found

    alone = torch.cat([logprobs([sample]) for sample in samples])
    torch.testing.assert_close(logprobs(samples), alone, atol=1e-5, rtol=1e-5)


def test_only_policy_tokens_are_learned(model: PolicyModel) -> None:
    """Pushing up the policy's tokens leaves the logits of every other position without gradient."""
    sample = make_sample("x", "...pp...p..")
    captured: list[Tensor] = []
    hook = model.lm.get_decoder().register_forward_hook(
        lambda _module, _args, output: captured.append(output.last_hidden_state)
    )
    loss = loss_of(model, [sample])
    hook.remove()
    (gradient_BTD,) = torch.autograd.grad(loss, captured[0])
    reached = gradient_BTD[0].abs().sum(-1) > 0
    assert reached.tolist() == [c == "p" for c in "..pp...p"]


def test_documents_and_prompts_never_receive_loss(model: PolicyModel) -> None:
    """The gradient is that of the policy tokens' own likelihood, all else held fixed."""
    sample = make_sample("x", "...pp...p..")
    ids = torch.from_numpy(sample.token_ids)[None]
    model.lm.set_attn_implementation("eager")
    logprobs = model.lm(ids).logits[0].float().log_softmax(-1)
    model.lm.set_attn_implementation(PACKED)
    by_hand = -sum(
        float(sample.advantages[t]) * logprobs[t - 1, ids[0, t]]
        for t in np.flatnonzero(sample.mask)
    )
    parameters = list(model.lm.parameters())
    expected = torch.autograd.grad(by_hand / COUNTS.num_tokens, parameters)
    found = torch.autograd.grad(loss_of(model, [sample]), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_what_stands_in_observations_after_the_last_policy_token_is_not_even_read() -> None:
    sample = make_sample("x", "..pp....")
    assert collate([sample], CPU).row.lengths == (3,)


@pytest.mark.parametrize(
    "reduction", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"]
)
def test_microbatches_add_up_to_the_whole_batch(model: PolicyModel, reduction: str) -> None:
    samples = [make_sample(f"s{i}", ".." + "p" * (i + 1) + "..p", i) for i in range(4)]
    options = {"reduction": reduction, "correction": "tis"}
    whole = gradient_of(model, loss_of(model, samples, **options))
    parts = [
        gradient_of(model, loss_of(model, part, **options)) for part in (samples[:1], samples[1:])
    ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, atol=1e-6, rtol=1e-4)


def test_an_idle_rank_adds_a_gradient_of_zero_to_every_parameter(model: PolicyModel) -> None:
    gradient = gradient_of(model, loss_of(model, [], reduction="seq_mean_token_mean"))
    assert all((value == 0).all() for value in gradient.values())
