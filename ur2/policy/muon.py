"""Muon: momentum whose update of a matrix is orthogonalised (Jordan et al. 2024).

B_t = μ·B_{t−1} + (1−μ)·G_t
U_t = (1−μ)·G_t + μ·B_t
W ← (1−ηλ)·W − η·√max(1, rows/columns)·O(U_t)

As torch's own, but for a processor without units for bfloat16, on which torch's products are some
forty times as slow as in float32: there it is float32, which is closer to O than theirs.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ur2.processor import computes

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MIN_NORM = 1e-7


class Muon(Optimizer):
    """The optimizer of hidden matrices.

    Args:
        parameters: matrices.
        lr: η.
        momentum: μ.
        weight_decay: λ.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, float]) -> None:
        gradient, momentum = parameter.grad, group["momentum"]
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = orthogonalised(gradient.lerp(average, momentum), dtype_on(gradient.device))
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Singular values moved towards 1 by five Newton–Schulz iterations, (R, C) -> (R, C).

    X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, from X = M / ‖M‖; computed and returned in `dtype`. In
    float32 it is exact to 2e-6 of the result, in bfloat16 to 0.012 (256 × 256) or 0.018 (8 × 8).
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if is_tall else matrix).to(dtype)
    found = found / found.norm().clamp(min=MIN_NORM)
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.T
        inner = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.addmm(found, inner, found, beta=a)
    return found.T if is_tall else found


def dtype_on(device: torch.device) -> torch.dtype:
    """bfloat16, or float32 on a processor that emulates it."""
    is_fast = device.type != "cpu" or computes("bfloat16")
    return torch.bfloat16 if is_fast else torch.float32
