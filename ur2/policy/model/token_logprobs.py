"""Log-probabilities of chosen tokens from hidden states, without all logits at once.

Shapes: _N chosen positions, _D width, _V vocabulary, _C positions of one chunk, _M pairs of a
position and an id that it allows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

NEVER = -1e30
"""The logit of what is not allowed: finite, so that its entropy is 0 and not undefined."""


class TokenLogprobs(nn.Module):
    """The LM head fused with log-softmax.

    It holds the head's own parameters, so that a sharded engine gathers them when this module runs.
    """

    def __init__(self, head: nn.Linear, *, temperature: float, chunk_tokens: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.inverse_temperature = 1.0 / temperature
        self.chunk_tokens = chunk_tokens

    def forward(
        self, hidden_ND: Tensor, target_N: Tensor, allowed_2M: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logprob_N, entropy_N) in float32, of softmax(logits / temperature).

        The entropy carries no gradient. A position that stands in `allowed_2M` (positions, then
        ids) is over the ids beside it there; all others are over the vocabulary.
        """
        dtype = hidden_ND.dtype
        if torch.is_autocast_enabled(hidden_ND.device.type):
            dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        logprob_N, entropy_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(dtype),
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            target_N,
            allowed_2M,
            self.inverse_temperature,
            self.chunk_tokens,
        )
        return logprob_N, entropy_N


class _TokenLogprobs(torch.autograd.Function):
    """Recomputes each chunk's probabilities in the backward pass; two (C, V) exist at most.

    log π(v) = z_v − log Σ exp z, z = logits / temperature; ∂ log π(v) / ∂z = 1[v] − π.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        allowed_2M: Tensor | None,
        inverse_temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        logprob_N, entropy_N = hidden_ND.new_empty(2, len(hidden_ND), dtype=torch.float32)
        for start in range(0, len(hidden_ND), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            allowed = _within(allowed_2M, chunk)
            logprob_N[chunk], entropy_N[chunk] = _chunk_logprobs(
                _shifted_logits(hidden_ND[chunk], weight_VD, bias_V, inverse_temperature, allowed),
                target_N[chunk],
            )
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, allowed_2M)
        ctx.inverse_temperature = inverse_temperature
        ctx.chunk_tokens = chunk_tokens
        ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, target_N, allowed_2M = ctx.saved_tensors
        learns_weight, learns_bias = ctx.needs_input_grad[1:3]
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if learns_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if learns_bias else None
        for start in range(0, len(hidden_ND), ctx.chunk_tokens):
            chunk = slice(start, start + ctx.chunk_tokens)
            hidden_CD = hidden_ND[chunk]
            grad_C1 = grad_N[chunk, None] * ctx.inverse_temperature
            grad_CV = _shifted_logits(
                hidden_CD, weight_VD, bias_V, ctx.inverse_temperature, _within(allowed_2M, chunk)
            ).exp_()
            grad_CV.mul_(-grad_C1 / grad_CV.sum(dim=1, keepdim=True))
            grad_CV.scatter_add_(1, target_N[chunk, None], grad_C1)
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
            grad_CV = grad_CV.to(weight_VD.dtype)
            torch.mm(grad_CV, weight_VD, out=grad_hidden_ND[chunk])
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, grad_CV.T, hidden_CD)
            del grad_CV  # before the next chunk takes its place
        return (
            grad_hidden_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None else grad_bias_V.to(weight_VD.dtype),
            None,
            None,
            None,
            None,
        )


def _chunk_logprobs(shifted_CV: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
    """(logprob_C, entropy_C): log π(v) = s_v − log Σ exp s, H = log Σ exp s − Σ π s."""
    exponential_CV = shifted_CV.exp()
    total_C = exponential_CV.sum(dim=1)
    log_total_C = total_C.log()
    chosen_C = shifted_CV.gather(1, target_C[:, None]).squeeze(1)
    mean_C = torch.einsum("cv,cv->c", exponential_CV, shifted_CV) / total_C  # vecdot makes a (C, V)
    return chosen_C - log_total_C, log_total_C - mean_C


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total` += `left` @ `right`, without a product of its own where dtypes allow."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _within(allowed_2M: Tensor | None, chunk: slice) -> Tensor | None:
    """The pairs whose position is in a chunk, counted from its start."""
    if allowed_2M is None:
        return None
    position_M = allowed_2M[0] - chunk.start
    inside_M = (position_M >= 0) & (position_M < chunk.stop - chunk.start)
    return torch.stack([position_M, allowed_2M[1]])[:, inside_M]


def _shifted_logits(
    hidden_CD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    inverse_temperature: float,
    allowed_2M: Tensor | None,
) -> Tensor:
    """Logits / temperature, less the largest that is allowed, in float32. (C, V)."""
    logits_CV = functional.linear(hidden_CD, weight_VD, bias_V).float()
    if inverse_temperature != 1.0:
        logits_CV.mul_(inverse_temperature)
    if allowed_2M is not None:
        position_M, token_M = allowed_2M
        kept_M = logits_CV[position_M, token_M]
        logits_CV.index_fill_(0, position_M, NEVER)
        logits_CV[position_M, token_M] = kept_M
    return logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
