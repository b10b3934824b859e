"""Optimizers of the policy, as parameter groups with their own learning rates."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from ur2.errors import InputError
from ur2.policy.muon import Muon
from ur2.policy.options import PolicyOptions


def make_optimizer(model: nn.Module, options: PolicyOptions) -> Optimizer:
    """The optimizer that the options ask for, over all parameters of `model` that are trained.

    Raises:
        InputError: the options cannot go together.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer == "adamw":
        return _adamw(trained, options)
    if options.zero_stage != 0:
        raise InputError(
            f"policy.optimizer 'muon' works on whole matrices, but zero_stage {options.zero_stage} "
            "shards them: set policy.zero_stage=0 or policy.optimizer=adamw"
        )
    edges = _edges(model)
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in edges]
    others = [p for p in trained if p.ndim != 2 or id(p) in edges]
    muon = Muon(hidden, lr=options.muon_learning_rate, weight_decay=options.weight_decay)
    return OptimizerPair(muon, _adamw(others, options))


class OptimizerPair(Optimizer):
    """Two optimizers over disjoint parameters, seen as one.

    It overrides what an Optimizer does, since the engine accepts nothing but an Optimizer.
    """

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self.parts = (first, second)
        groups = [*first.param_groups, *second.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})
        self.param_groups = groups

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Steps both."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of both."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores both; their groups stay the ones that are listed here."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _adamw(parameters: Sequence[nn.Parameter], options: PolicyOptions) -> AdamW:
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        betas=options.adam_betas,
        eps=options.adam_eps,
        fused=True,
    )


def _edges(model: nn.Module) -> set[int]:
    """The ids of the weights of embedding and LM head."""
    return {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or name.endswith("token_logprobs")
    }
