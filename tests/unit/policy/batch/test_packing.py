"""Plans cover the batch once, within the limit, with the same shape on every rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.errors import InputError
from ur2.policy.batch.packing import BatchPlan, cost, num_inputs, num_tokens, plan
from ur2.types import Batch, Sample


def sample(name: str, length: int, *, trained: bool = True) -> Sample:
    """Trains on the last token and, where there is one, on the third."""
    mask = np.zeros(length, dtype=np.bool_)
    mask[[-1, min(2, length - 1)]] = trained
    zeros = np.zeros(length, dtype=np.float32)
    return Sample(
        id=name,
        token_ids=np.arange(length),
        mask=mask,
        advantages=zeros,
        sampler_logprobs=zeros,
    )


def batch(lengths: list[int]) -> Batch:
    return Batch(samples=tuple(sample(f"s{i}", n) for i, n in enumerate(lengths)))


def make_plan(lengths: list[int], updates: int, ranks: int, limit: int) -> BatchPlan:
    return plan(
        batch(lengths), num_updates=updates, num_ranks=ranks, max_tokens_per_microbatch=limit
    )


cases = {
    "lengths": st.lists(st.integers(2, 300), min_size=1, max_size=60),
    "updates": st.integers(1, 5),
    "ranks": st.integers(1, 4),
    "limit": st.integers(1, 1000),
}


@settings(max_examples=60, deadline=None)
@given(**cases)
def test_every_sample_is_trained_on_once(
    lengths: list[int], updates: int, ranks: int, limit: int
) -> None:
    made = make_plan(lengths, updates, ranks, limit)
    found = [
        s.id for rank in made.ranks for step in rank.steps for m in step.microbatches for s in m
    ]
    assert sorted(found) == sorted(s.id for s in batch(lengths).samples)
    assert len(made.ranks) == ranks


@settings(max_examples=60, deadline=None)
@given(**cases)
def test_ranks_agree_on_steps_microbatches_and_denominators(
    lengths: list[int], updates: int, ranks: int, limit: int
) -> None:
    made = make_plan(lengths, updates, ranks, limit)
    assert {len(rank.steps) for rank in made.ranks} == {min(updates, len(lengths))}
    for steps in zip(*(rank.steps for rank in made.ranks), strict=True):
        members = [s for step in steps for m in step.microbatches for s in m]
        assert len({len(step.microbatches) for step in steps}) == 1
        assert steps[0].microbatches
        assert {step.num_sequences for step in steps} == {len(members)}
        assert {step.num_tokens for step in steps} == {sum(int(s.mask.sum()) for s in members)}


@settings(max_examples=60, deadline=None)
@given(**cases)
def test_microbatches_keep_to_the_limit_unless_one_sample_is_longer(
    lengths: list[int], updates: int, ranks: int, limit: int
) -> None:
    for rank in make_plan(lengths, updates, ranks, limit).ranks:
        for step in rank.steps:
            for microbatch in step.microbatches:
                assert num_tokens(microbatch) <= limit or len(microbatch) == 1


def heavy_tailed(count: int) -> list[int]:
    """Median 600, one in a hundred past 6,000."""
    return np.random.default_rng(0).lognormal(np.log(600), 0.99, count).astype(int).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_microbatches_of_one_moment_cost_alike_on_all_ranks(ranks: int) -> None:
    made = make_plan(heavy_tailed(512), 2, ranks, 16_384)
    for steps in zip(*(rank.steps for rank in made.ranks), strict=True):
        for moment in zip(*(step.microbatches for step in steps), strict=True):
            costs = [cost(m) for m in moment]
            assert max(costs) < 1.1 * min(costs)


def test_microbatches_are_nearly_full() -> None:
    lengths = heavy_tailed(512)
    (step,) = make_plan(lengths, 1, 1, 16_384).for_rank(0).steps
    needed = sum(length - 1 for length in lengths) / 16_384
    assert len(step.microbatches) <= needed + 1


def test_only_ranks_without_a_sequence_read_for_nothing() -> None:
    assert make_plan(heavy_tailed(64), 1, 2, 8192).padding_fraction == 0.0
    assert make_plan([10], 1, 2, 8192).padding_fraction == pytest.approx(1 / 10)


def test_attention_makes_one_long_sequence_dearer_than_many_short_ones() -> None:
    one, many = [sample("one", 20_001)], [sample(f"s{i}", 201) for i in range(100)]
    assert num_tokens(one) == num_tokens(many)
    assert cost(one) > 1.5 * cost(many)


def test_updates_get_alike_numbers_of_tokens() -> None:
    lengths = np.random.default_rng(1).integers(20, 400, 100).tolist()
    steps = make_plan(lengths, 4, 1, 2000).for_rank(0).steps
    sizes = [sum(num_inputs(s) for m in step.microbatches for s in m) for step in steps]
    assert max(sizes) < 1.1 * min(sizes)


def test_the_order_of_the_batch_does_not_matter() -> None:
    forward = batch([9, 30, 12, 12, 50, 7])
    backward = Batch(samples=forward.samples[::-1])
    options = {"num_updates": 2, "num_ranks": 2, "max_tokens_per_microbatch": 40}

    def ids(of: Batch) -> list[list[str]]:
        made = plan(of, **options)
        return [
            [s.id for s in m] for r in made.ranks for step in r.steps for m in step.microbatches
        ]

    assert ids(forward) == ids(backward)


def test_samples_without_policy_tokens_are_left_out() -> None:
    samples = (sample("talks", 5), sample("silent", 9, trained=False))
    made = plan(Batch(samples=samples), num_updates=1, num_ranks=2, max_tokens_per_microbatch=100)
    found = [[s.id for s in m] for rank in made.ranks for m in rank.steps[0].microbatches]
    assert sorted(found) == [[], ["talks"]]
    assert made.for_rank(0).steps[0].num_sequences == 1


def test_a_batch_without_policy_tokens_is_refused() -> None:
    silent = Batch(samples=(sample("silent", 9, trained=False),))
    with pytest.raises(InputError, match="no sample of the batch has a policy token"):
        plan(silent, num_updates=1, num_ranks=1, max_tokens_per_microbatch=8)


def test_inputs_end_before_the_last_trained_token() -> None:
    mask = np.array([False, False, True, True, False, False])
    zeros = np.zeros(6, dtype=np.float32)
    trailing = Sample(
        id="x", token_ids=np.arange(6), mask=mask, advantages=zeros, sampler_logprobs=zeros
    )
    assert num_inputs(trailing) == 3
