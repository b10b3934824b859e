"""Log-probabilities of chosen tokens from hidden states, without all logits at once.

Shapes: _N chosen positions, _D width, _V vocabulary, _C positions of one chunk.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


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

    def forward(self, hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """(logprob_N, entropy_N) in float32, of softmax(logits / temperature).

        The entropy carries no gradient.
        """
        dtype = hidden_ND.dtype
        if torch.is_autocast_enabled(hidden_ND.device.type):
            dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        logprob_N, entropy_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(dtype),
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            target_N,
            self.inverse_temperature,
            self.chunk_tokens,
        )
        return logprob_N, entropy_N


class _TokenLogprobs(torch.autograd.Function):
    """Keeps the last chunk's probabilities, still at hand when backward begins; recomputes others.

    log π(v) = z_v − log Σ exp z, z = logits / temperature; ∂ log π(v) / ∂z = 1[v] − π.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        inverse_temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = [], []
        last_CV = None
        for start in range(0, len(hidden_ND), chunk_tokens):
            hidden_CD = hidden_ND[start : start + chunk_tokens]
            target_C = target_N[start : start + chunk_tokens]
            shifted_CV = _shifted_logits(hidden_CD, weight_VD, bias_V, inverse_temperature)
            last_CV = shifted_CV.exp()
            total_C1 = last_CV.sum(dim=1, keepdim=True)
            log_total_C = total_C1.log().squeeze(1)
            last_CV /= total_C1
            logprobs.append(shifted_CV.gather(1, target_C[:, None]).squeeze(1) - log_total_C)
            entropies.append(log_total_C - torch.linalg.vecdot(last_CV, shifted_CV))
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, target_N, last_CV)
        ctx.inverse_temperature = inverse_temperature
        ctx.chunk_tokens = chunk_tokens
        logprob_N, entropy_N = torch.cat(logprobs), torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, target_N, last_CV = ctx.saved_tensors
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        size = ctx.chunk_tokens
        for start in range(0, len(hidden_ND), size):
            hidden_CD = hidden_ND[start : start + size]
            grad_C1 = grad_N[start : start + size, None] * ctx.inverse_temperature
            if start + size >= len(hidden_ND):
                probability_CV = last_CV
            else:
                shifted_CV = _shifted_logits(hidden_CD, weight_VD, bias_V, ctx.inverse_temperature)
                probability_CV = shifted_CV.softmax(dim=1)
            grad_CV = probability_CV.mul_(-grad_C1)
            grad_CV.scatter_add_(1, target_N[start : start + size, None], grad_C1)
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
            grad_CV = grad_CV.to(weight_VD.dtype)
            torch.mm(grad_CV, weight_VD, out=grad_hidden_ND[start : start + size])
            grad_weight_VD += grad_CV.T @ hidden_CD
        grad_bias = None if grad_bias_V is None else grad_bias_V.to(weight_VD.dtype)
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), grad_bias, None, None, None


def _shifted_logits(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, inverse_temperature: float
) -> Tensor:
    """Logits / temperature, less each row's largest, in float32. (C, V)."""
    logits_CV = functional.linear(hidden_CD, weight_VD, bias_V).float()
    if inverse_temperature != 1.0:
        logits_CV.mul_(inverse_temperature)
    return logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
