"""Options become schedules, DeepSpeed configurations and optimizers."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from ur2.errors import InputError
from ur2.policy.deepspeed_config import deepspeed_config
from ur2.policy.optimizers import make_optimizer
from ur2.policy.options import PolicyOptions
from ur2.policy.schedule import learning_rate_factor


def configured(*, on_gpu: bool = False, **options: object) -> dict[str, object]:
    return deepspeed_config(
        PolicyOptions.load(options, where="policy"), num_parameters=1000, on_gpu=on_gpu
    )


def factors(total: int, **options: object) -> list[float]:
    policy = PolicyOptions.load(options, where="policy")
    return [round(learning_rate_factor(policy, step, total), 4) for step in range(total)]


def test_warm_up_then_constant() -> None:
    assert factors(5, warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_linear_decay_begins_where_it_is_told() -> None:
    assert factors(10, schedule="linear", decay_start=0.6) == [*[1.0] * 7, 0.75, 0.5, 0.25]


def test_cosine_decay_by_hand() -> None:
    assert factors(4, schedule="cosine") == [1.0, 0.8536, 0.5, 0.1464]


def test_a_schedule_never_goes_below_zero_past_its_end() -> None:
    policy = PolicyOptions(schedule="linear")
    assert learning_rate_factor(policy, 12, 10) == 0.0


def test_stages_and_precision_reach_deepspeed() -> None:
    config = configured(zero_stage=3, precision="bf16", max_grad_norm=0.5)
    assert config["zero_optimization"]["stage"] == 3
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["gradient_clipping"] == 0.5
    assert "bf16" not in configured(zero_stage=0, precision="bf16")


def test_buckets_are_no_larger_than_the_model() -> None:
    assert configured()["zero_optimization"]["reduce_bucket_size"] == 1000


def test_overrides_are_merged_key_by_key() -> None:
    over = {"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": True}
    config = configured(zero_stage=2, deepspeed_overrides=over)
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == 2
    assert config["wall_clock_breakdown"] is True


def test_offload_keeps_optimizer_states_on_the_host() -> None:
    zero = configured(zero_stage=2, offload="cpu", on_gpu=True)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_stage": 1, "precision": "bf16"}, "stage 2"),
        ({"zero_stage": 0, "offload": "cpu"}, "zero_stage 1, 2 or 3"),
        ({"zero_stage": 2, "offload": "cpu"}, "set none"),
    ],
)
def test_what_cannot_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configured(**options)


class Net(nn.Module):
    """Embedding, two hidden matrices, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))

    def loss(self) -> torch.Tensor:
        return self.body(self.embed(torch.arange(10))).square().sum()


def muon(net: Net) -> torch.optim.Optimizer:
    options = PolicyOptions(optimizer="muon", zero_stage=0, learning_rate=0.1)
    return make_optimizer(net, options)


def test_muon_gets_hidden_matrices_only() -> None:
    net = Net()
    first, *others = muon(net).param_groups
    assert {id(p) for p in first["params"]} == {id(net.body[0].weight), id(net.body[2].weight)}
    assert sum(len(g["params"]) for g in others) == len(list(net.parameters())) - 2
    assert first["lr"] == 0.02
    assert others[0]["lr"] == 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_weights_are_no_business_of_optimizers(optimizer: str) -> None:
    net = Net()
    net.body[0].weight.requires_grad_(False)
    options = PolicyOptions.load({"optimizer": optimizer, "zero_stage": 0}, where="policy")
    groups = make_optimizer(net, options).param_groups
    found = {id(p) for group in groups for p in group["params"]}
    assert found == {id(p) for p in net.parameters() if p.requires_grad}


def test_a_pair_of_optimizers_resumes_exactly() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = muon(net)

    def step() -> None:
        optimizer.zero_grad()
        net.loss().backward()
        optimizer.step()

    step()
    weights = {n: p.clone() for n, p in net.state_dict().items()}
    state = optimizer.state_dict()
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    state = torch.load(stored)
    step()
    through = {n: p.clone() for n, p in net.state_dict().items()}
    net.load_state_dict(weights)
    optimizer = muon(net)
    optimizer.load_state_dict(state)
    step()
    assert all(torch.equal(through[n], p) for n, p in net.state_dict().items())
    optimizer.param_groups[0]["lr"] = 0.0
    before = net.body[0].weight.clone()
    step()
    assert torch.equal(before, net.body[0].weight), "a learning rate set from outside has no effect"


def test_weight_decay_spares_vectors() -> None:
    matrices, vectors = make_optimizer(Net(), PolicyOptions(weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 1 for p in vectors["params"])


def test_options_import_nothing_heavy() -> None:
    code = (
        "import sys, ur2.policy.options, ur2.algorithms.options, ur2.policy.schedule;"
        "heavy = {'torch', 'deepspeed', 'vllm', 'ray', 'transformers'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_decays_that_adam_refuses_are_named() -> None:
    with pytest.raises(InputError, match=r"'adam_betas\.1': input should be less than 1, got 3"):
        PolicyOptions.load({"adam_betas": [0.9, 3.0]}, where="policy")
