import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.checksums import checksum, total

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def weights(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(7, 12, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), dtype=st.sampled_from(DTYPES), cut=st.integers(1, 6))
def test_the_layout_does_not_matter_and_parts_add_up(seed, dtype, cut):
    weight = weights(seed, dtype)
    assert checksum(weight.T) == checksum(weight)
    assert total([checksum(weight[:cut]), checksum(weight[cut:])]) == checksum(weight)
    padded = torch.nn.functional.pad(weight, (0, 3, 0, 2))
    assert checksum(padded) == checksum(weight)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), dtype=st.sampled_from(DTYPES), place=st.integers(0, 83))
def test_the_smallest_change_of_one_value_shows(seed, dtype, place):
    weight = weights(seed, dtype)
    moved = weight.clone().flatten()
    upwards = torch.full_like(moved[place], torch.inf)
    moved[place] = torch.nextafter(moved[place], upwards)
    assert checksum(moved) != checksum(weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_add_nothing_whatever_their_sign(dtype):
    assert checksum(torch.tensor([-0.0, 0.0], dtype=dtype)) == 0
