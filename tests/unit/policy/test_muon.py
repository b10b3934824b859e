import pytest
import torch
from torch import nn
from torch.optim import Muon as TorchMuon

from ur2 import processor
from ur2.policy.muon import Muon, dtype_on, orthogonalised

SHAPES = [(8, 8), (24, 8), (32, 96), (128, 128)]


def updates(optimizer_of, num_steps: int = 4) -> list[torch.Tensor]:
    """What matrices become under given gradients."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = optimizer_of(matrices)
    for _ in range(num_steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape)
        optimizer.step()
    return [matrix.detach() for matrix in matrices]


def test_in_bfloat16_it_is_torchs(monkeypatch):
    monkeypatch.setattr("ur2.policy.muon.computes", lambda dtype: True)
    ours = updates(lambda p: Muon(p, lr=0.1, weight_decay=0.01))
    theirs = updates(lambda p: TorchMuon(p, lr=0.1, weight_decay=0.01))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_in_float32_its_weights_are_torchs_to_a_hundredth_of_the_update(monkeypatch):
    monkeypatch.setattr("ur2.policy.muon.computes", lambda dtype: False)
    lr = 0.1
    for mine, other in zip(
        updates(lambda p: Muon(p, lr=lr), num_steps=1),
        updates(lambda p: TorchMuon(p, lr=lr, weight_decay=0.0), num_steps=1),
        strict=True,
    ):
        assert not torch.equal(mine, other)
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-2 * lr)
        assert (mine - other).square().mean().sqrt() < 1e-2 * lr


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_closer_to_the_exact_result_than_bfloat16_which_is_torchs(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = orthogonalised(matrix.double(), torch.float64)

    def distance(dtype):
        return (orthogonalised(matrix, dtype).double() - exact).norm() / exact.norm()

    assert distance(torch.float32) < 1e-5
    assert 1e-3 < distance(torch.bfloat16) < 3e-2


@pytest.mark.parametrize("shape", [(24, 8), (32, 96)])
def test_singular_values_end_around_1_whatever_the_scale(shape):
    torch.manual_seed(1)
    matrix = 1e-3 * torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalised(matrix, torch.float32))
    assert values.min() > 0.3
    assert values.max() < 1.3
    torch.testing.assert_close(
        orthogonalised(7 * matrix, torch.float32), orthogonalised(matrix, torch.float32)
    )


def test_a_matrix_of_zeros_gets_no_update():
    assert not orthogonalised(torch.zeros(3, 5), torch.float32).any()


def test_the_type_is_one_that_the_processor_computes():
    found = dtype_on(torch.device("cpu"))
    assert processor.computes(str(found).removeprefix("torch."))
    assert dtype_on(torch.device("cuda")) is torch.bfloat16
