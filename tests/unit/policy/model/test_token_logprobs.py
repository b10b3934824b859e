"""The fused LM head against plain log-softmax, forward and backward."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ur2.policy.model.token_logprobs import TokenLogprobs

N, D, V = 23, 8, 31


def plain(
    hidden: Tensor, head: nn.Linear, target: Tensor, temperature: float
) -> tuple[Tensor, ...]:
    logprobs = (head(hidden).float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(1, target[:, None]).squeeze(1)
    return chosen, -(logprobs.exp() * logprobs).sum(-1)


def gradients(loss: Tensor, hidden: Tensor, head: nn.Linear) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()]))


@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_log_softmax_in_value_and_gradient(
    chunk_tokens: int, temperature: float, bias: bool
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=bias)
    hidden = (3 * torch.randn(N, D)).requires_grad_()
    target = torch.randint(0, V, (N,))
    upstream = torch.randn(N)
    fused = TokenLogprobs(head, temperature=temperature, chunk_tokens=chunk_tokens)
    found, entropy = fused(hidden, target)
    expected, expected_entropy = plain(hidden, head, target, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, expected_entropy.detach())
    assert not entropy.requires_grad
    for one, other in zip(
        gradients(found @ upstream, hidden, head),
        gradients(expected @ upstream, hidden, head),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def restricted(hidden: Tensor, head: nn.Linear, target: Tensor, allowed: dict[int, list[int]]):
    """A softmax over masked logits, written out, at temperature 0.6."""
    logits = head(hidden).float() / 0.6
    refused = torch.zeros_like(logits, dtype=torch.bool)
    for position, ids in allowed.items():
        refused[position] = True
        refused[position, ids] = False
    logprobs = logits.masked_fill(refused, float("-inf")).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(refused, 0.0)).sum(-1)
    return logprobs.gather(1, target[:, None]).squeeze(1), entropy


ALLOWED = {2: [4, 9, 30], 6: [0, 1], 7: [5], 8: [5, 6], 22: [3, 17]}
ALLOWED_2M = torch.tensor([(at, token) for at, ids in ALLOWED.items() for token in ids]).T


def restricted_target() -> Tensor:
    target = torch.randint(0, V, (N,))
    for position, ids in ALLOWED.items():
        target[position] = ids[0]
    return target


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
def test_restricted_positions_equal_a_masked_softmax_in_value_and_gradient(
    chunk_tokens: int,
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V)
    hidden = (3 * torch.randn(N, D)).requires_grad_()
    target, upstream = restricted_target(), torch.randn(N)
    fused = TokenLogprobs(head, temperature=0.6, chunk_tokens=chunk_tokens)
    found, entropy = fused(hidden, target, ALLOWED_2M)
    expected, expected_entropy = restricted(hidden, head, target, ALLOWED)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropy, expected_entropy.detach(), atol=1e-5, rtol=1e-5)
    for one, other in zip(
        gradients(found @ upstream, hidden, head),
        gradients(expected @ upstream, hidden, head),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_token_without_alternative_has_probability_1_and_no_gradient() -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V)
    hidden = (30 * torch.randn(N, D)).requires_grad_()
    target = restricted_target()
    found, entropy = TokenLogprobs(head, temperature=0.6, chunk_tokens=7)(
        hidden, target, ALLOWED_2M
    )
    assert (found[7].item(), entropy[7].item()) == (0.0, 0.0)
    assert all(not gradient.any() for gradient in gradients(found[7], hidden, head))


def test_positions_beside_restricted_ones_are_what_they_were_to_the_bit() -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V)
    hidden, target = torch.randn(N, D, requires_grad=True), restricted_target()
    fused = TokenLogprobs(head, temperature=0.6, chunk_tokens=7)
    free = [position for position in range(N) if position not in ALLOWED]
    plain_run, restricted_run = fused(hidden, target), fused(hidden, target, ALLOWED_2M)
    for one, other in zip(plain_run, restricted_run, strict=True):
        assert torch.equal(one[free], other[free])
    assert torch.equal(
        *(
            torch.autograd.grad(run[0][free].sum(), hidden)[0][free]
            for run in (plain_run, restricted_run)
        )
    )


def test_large_logits_stay_finite() -> None:
    head = nn.Linear(D, V, bias=False)
    nn.init.constant_(head.weight, 1e4)
    head.weight.data[0] *= -1
    hidden = torch.ones(2, D, requires_grad=True)
    found, entropy = TokenLogprobs(head, temperature=1.0, chunk_tokens=4)(
        hidden, torch.tensor([0, 1])
    )
    assert found[0] < -1e5
    assert found[1].item() == pytest.approx(-torch.tensor(V - 1.0).log().item(), abs=1e-4)
    assert entropy.isfinite().all()


def test_bf16_weights_give_float32_logprobs_near_the_exact_ones() -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=False)
    hidden, target = torch.randn(N, D), torch.randint(0, V, (N,))
    exact, _ = plain(hidden, head, target, 1.0)
    found, _ = TokenLogprobs(head.bfloat16(), temperature=1.0, chunk_tokens=5)(
        hidden.bfloat16(), target
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.03, rtol=0)


def test_autocast_computes_in_bf16_and_keeps_float32_gradients() -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=False)
    hidden = torch.randn(N, D, requires_grad=True)
    target = torch.randint(0, V, (N,))
    fused = TokenLogprobs(head, temperature=1.0, chunk_tokens=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = fused(hidden, target)
    exact, _ = plain(hidden, head, target, 1.0)
    assert 0 < (found - exact).abs().max() < 0.03
    for one, other in zip(
        gradients(found.sum(), hidden, head), gradients(exact.sum(), hidden, head), strict=True
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


def test_the_head_is_shared_not_copied() -> None:
    head = nn.Linear(D, V)
    fused = TokenLogprobs(head, temperature=1.0, chunk_tokens=5)
    assert fused.weight is head.weight
    assert fused.bias is head.bias


def test_a_frozen_head_gets_no_gradient_and_hidden_states_the_same() -> None:
    torch.manual_seed(0)
    head = nn.Linear(D, V)
    hidden, target = torch.randn(N, D, requires_grad=True), torch.randint(0, V, (N,))
    fused = TokenLogprobs(head, temperature=0.7, chunk_tokens=5)

    def gradient() -> Tensor:
        return torch.autograd.grad(fused(hidden, target)[0].sum(), hidden)[0]

    learned = gradient()
    head.requires_grad_(False)
    torch.testing.assert_close(gradient(), learned)
    fused(hidden, target)[0].sum().backward()
    assert head.weight.grad is None


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_logits_exist_for_one_chunk_at_a_time() -> None:
    head = nn.Linear(D, V, bias=False)
    hidden, target = torch.randn(300, D, requires_grad=True), torch.randint(0, V, (300,))
    with Largest() as largest:
        TokenLogprobs(head, temperature=1.0, chunk_tokens=100)(hidden, target)[0].sum().backward()
    assert largest.elements == 100 * V
