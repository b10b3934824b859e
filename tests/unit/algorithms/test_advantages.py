"""Golden arrays worked by hand, and what must not change an advantage."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ur2.algorithms import estimate
from ur2.algorithms.advantages import ESTIMATORS
from ur2.algorithms.comparison import all_equal
from ur2.errors import InputError

SEQUENCE_LEVEL = ("grpo", "dr_grpo", "rloo", "reinforce", "reinforce_pp_baseline")
GROUP_RELATIVE = ("grpo", "dr_grpo", "rloo")
CRITIC_FREE = (*SEQUENCE_LEVEL, "reinforce_pp")


def mask(*rows: str) -> Tensor:
    """`p` marks a policy token, anything else is not one."""
    return torch.tensor([[c == "p" for c in row] for row in rows])


def per_sequence(name: str, rewards: list[float], groups: list[int], **options: float) -> Tensor:
    one_token_each = torch.ones(len(rewards), 1, dtype=torch.bool)
    return estimate(
        name, torch.tensor(rewards), torch.tensor(groups), one_token_each, **options
    ).squeeze(1)


def test_grpo_by_hand() -> None:
    # group 7: mean 2, std sqrt(((1)²+0+1)/2) = 1; group 3: mean 5, std sqrt(2)
    advantages = per_sequence("grpo", [1.0, 4.0, 2.0, 3.0, 6.0], [7, 3, 7, 7, 3])
    expected = [-1.0, -1 / math.sqrt(2), 0.0, 1.0, 1 / math.sqrt(2)]
    torch.testing.assert_close(advantages, torch.tensor(expected), atol=2e-6, rtol=0)


def test_dr_grpo_by_hand() -> None:
    advantages = per_sequence("dr_grpo", [1.0, 4.0, 2.0, 3.0, 6.0], [7, 3, 7, 7, 3])
    torch.testing.assert_close(advantages, torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))


def test_rloo_by_hand() -> None:
    # 1 − (2+3)/2, 2 − (1+3)/2, 3 − (1+2)/2; the singleton has nobody to compare with
    advantages = per_sequence("rloo", [1.0, 2.0, 3.0, 5.0], [0, 0, 0, 1])
    torch.testing.assert_close(advantages, torch.tensor([-1.5, 0.0, 1.5, 5.0]))


def test_reinforce_is_the_reward() -> None:
    torch.testing.assert_close(
        per_sequence("reinforce", [1.0, -2.0], [0, 0]), torch.tensor([1.0, -2.0])
    )


def test_reinforce_pp_discounts_by_policy_tokens_and_carries_over_observations() -> None:
    # returns of 5 policy tokens with γ = .9: .6561 .729 .81 .9 1; decaying over the two documents
    # too would give .5314 for the first, and zeroing masked returns 0 for the first turn
    mask_BT = mask("..ppoopp.p")
    returns = torch.tensor([0.6561, 0.729, 0.81, 0.9, 1.0])
    advantages = estimate(
        "reinforce_pp", torch.tensor([1.0]), torch.tensor([0]), mask_BT, gamma=0.9
    )[mask_BT]
    whitened = (returns - returns.mean()) / (returns.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(advantages, whitened, atol=1e-5, rtol=0)


def test_reinforce_pp_subtracts_the_kl_of_each_token() -> None:
    # γ = .5, β = .1: r = (−.1, −.2, 2 − .3); G = (−.1 + .5·.65, −.2 + .5·1.7, 1.7)
    mask_BT = mask("pop.p")
    kl_BT = torch.tensor([[1.0, 99.0, 2.0, math.nan, 3.0]])
    advantages = estimate(
        "reinforce_pp",
        torch.tensor([2.0]),
        torch.tensor([0]),
        mask_BT,
        kl_BT,
        gamma=0.5,
        kl_coef=0.1,
    )
    returns = torch.tensor([0.225, 0.65, 1.7])
    whitened = (returns - returns.mean()) / returns.std(correction=0)
    torch.testing.assert_close(advantages[mask_BT], whitened, atol=1e-5, rtol=0)
    assert (advantages[~mask_BT] == 0).all()


def test_reinforce_pp_baseline_whitens_over_tokens_not_sequences() -> None:
    # r − mean = −1, +1 on 1 and 3 tokens: mean .5, variance .75
    mask_BT = mask("p...", ".ppp")
    advantages = estimate(
        "reinforce_pp_baseline", torch.tensor([0.0, 2.0]), torch.tensor([4, 4]), mask_BT
    )
    low, high = -1.5 / math.sqrt(0.75), 0.5 / math.sqrt(0.75)
    expected = torch.tensor([[low, 0, 0, 0], [0, high, high, high]])
    torch.testing.assert_close(advantages, expected)


def test_reinforce_pp_baseline_has_mean_zero_for_groups_of_one() -> None:
    # shaped rewards 3, −1, 1: mean 1, variance 8/3
    advantages = per_sequence("reinforce_pp_baseline", [3.0, 0.0, 2.0], [0, 1, 1])
    expected = torch.tensor([2.0, -2.0, 0.0]) / math.sqrt(8 / 3)
    torch.testing.assert_close(advantages, expected)


def test_gae_by_hand_over_a_document() -> None:
    # policy tokens a, b around a document; γ = .5, λ = .5; V = (.4, .2), r = (0, 1)
    # δ_b = 1 − .2 = .8; δ_a = .5·.2 − .4 = −.3; A_a = −.3 + .25·.8 = −.1
    advantages = estimate(
        "gae",
        torch.tensor([1.0]),
        torch.tensor([0]),
        mask("poop"),
        gamma=0.5,
        lam=0.5,
        value_BT=torch.tensor([[0.4, 9.0, math.nan, 0.2]]),
    )
    torch.testing.assert_close(advantages, torch.tensor([[-0.1, 0.0, 0.0, 0.8]]))


def test_gae_with_lambda_one_is_return_minus_value() -> None:
    mask_BT = mask("p.ppo.p")
    value_BT = torch.rand(1, 7)
    advantages = estimate(
        "gae", torch.tensor([2.0]), torch.tensor([0]), mask_BT, gamma=0.9, value_BT=value_BT
    )
    returns = 2.0 * 0.9 ** torch.tensor([3.0, 2.0, 1.0, 0.0])
    torch.testing.assert_close(advantages[mask_BT], returns - value_BT[mask_BT])


def test_gae_without_values_is_refused() -> None:
    with pytest.raises(InputError, match="critic"):
        estimate("gae", torch.ones(1), torch.zeros(1), mask("p"))


def test_an_unknown_name_is_refused_with_the_nearest_or_the_known_ones() -> None:
    for name, told in (("grop", "did you mean 'grpo'"), ("x", "reinforce_pp_baseline")):
        with pytest.raises(InputError, match=f"algorithm.estimator.*{told}"):
            estimate(name, torch.ones(1), torch.zeros(1), mask("p"))


@pytest.mark.parametrize("name", [*GROUP_RELATIVE, "reinforce_pp_baseline"])
def test_equal_rewards_give_exactly_no_advantage(name: str) -> None:
    advantages = per_sequence(name, [0.1] * 3 + [0.7] * 5, [0] * 3 + [1] * 5)
    assert (advantages == 0).all()


@pytest.mark.parametrize("name", GROUP_RELATIVE)
def test_sums_of_the_same_parts_in_another_order_are_equal(name: str) -> None:
    one, other = 0.1 + 0.2, 0.3
    rewards = torch.tensor([one, other, one, 1e6 * one, 1e6 * other], dtype=torch.float64)
    groups, mask_BT = torch.tensor([0, 0, 0, 1, 1]), torch.ones(5, 1, dtype=torch.bool)
    assert one != other
    assert not estimate(name, rewards, groups, mask_BT).any()
    assert all_equal(rewards[:3].tolist())
    assert all_equal(rewards[3:].tolist())


@pytest.mark.parametrize("name", GROUP_RELATIVE)
def test_a_small_difference_is_a_signal(name: str) -> None:
    assert per_sequence(name, [0.5, 0.50001], [0, 0]).all()
    assert not all_equal([0.5, 0.50001])


@pytest.mark.parametrize("name", ["reinforce_pp", "reinforce_pp_baseline"])
def test_a_batch_of_equal_rewards_is_whitened_to_exactly_nothing(name: str) -> None:
    advantages = estimate(name, torch.full((3,), 0.7), torch.arange(3), mask("pop", ".p.", "ppp"))
    assert (advantages == 0).all()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo"])
def test_a_group_of_one_has_no_group_relative_signal(name: str) -> None:
    assert per_sequence(name, [3.0], [0]).tolist() == [0.0]


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_fully_masked_rows_and_batches_are_zero_and_finite(name: str) -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0, 0, 0])
    some = estimate(name, rewards, groups, mask("pp", "..", ".p"))
    assert some[1].tolist() == [0.0, 0.0]
    assert some.isfinite().all()
    assert some.any()
    assert not estimate(name, rewards, groups, mask("..", "..", "..")).any()


def batches(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(-3, 4, (6,), generator=generator).float() / 2
    mask_BT = torch.rand(6, 9, generator=generator) < 0.5
    mask_BT[:, 4] = True
    return rewards, torch.tensor([0, 0, 0, 5, 5, 2]), mask_BT


seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, name=st.sampled_from(CRITIC_FREE))
def test_padding_and_inserted_documents_change_nothing(seed: int, name: str) -> None:
    rewards, groups, mask_BT = batches(seed)
    plain = estimate(name, rewards, groups, mask_BT)
    at = torch.randint(0, 10, (1,), generator=torch.Generator().manual_seed(seed)).item()
    gap = torch.zeros(6, 4, dtype=torch.bool)
    wider = torch.cat([mask_BT[:, :at], gap, mask_BT[:, at:], gap], dim=1)
    advantages = estimate(name, rewards, groups, wider)
    assert torch.equal(advantages[wider], plain[mask_BT])
    assert (advantages[~wider] == 0).all()
    assert advantages.dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_documents_padding_and_company_change_nothing_for_gae(seed: int) -> None:
    """Its values are what the critic says; those of documents are never read."""
    rewards, groups, mask_BT = batches(seed)
    generator = torch.Generator().manual_seed(seed)
    value_BT = torch.randn(6, 9, generator=generator)
    options = {"gamma": 0.9, "lam": 0.8}
    plain = estimate("gae", rewards, groups, mask_BT, value_BT=value_BT, **options)
    at = int(torch.randint(0, 10, (1,), generator=generator))
    unread = torch.full((6, 4), math.nan)
    wider = torch.cat([mask_BT[:, :at], unread == 0, mask_BT[:, at:], unread == 0], dim=1)
    value_wider = torch.cat([value_BT[:, :at], unread, value_BT[:, at:], unread], dim=1)
    advantages = estimate("gae", rewards, groups, wider, value_BT=value_wider, **options)
    assert torch.equal(advantages[wider], plain[mask_BT])
    assert (advantages[~wider] == 0).all()
    alone = estimate(
        "gae", rewards[2:3], groups[2:3], mask_BT[2:3], value_BT=value_BT[2:3], **options
    )
    torch.testing.assert_close(alone, plain[2:3])


def test_fully_masked_rows_have_no_advantage_under_gae_either() -> None:
    rewards, mask_BT = torch.tensor([1.0, 5.0]), mask("pp", "..")
    advantages = estimate("gae", rewards, torch.zeros(2), mask_BT, value_BT=torch.zeros(2, 2))
    assert advantages.tolist() == [[1.0, 1.0], [0.0, 0.0]]


@settings(max_examples=25, deadline=None)
@given(seed=seeds, name=st.sampled_from(CRITIC_FREE))
def test_order_of_sequences_and_group_numbers_do_not_matter(seed: int, name: str) -> None:
    rewards, groups, mask_BT = batches(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    plain = estimate(name, rewards, groups, mask_BT)
    shuffled = estimate(name, rewards[order], 100 - groups[order], mask_BT[order])
    torch.testing.assert_close(shuffled, plain[order], atol=1e-6, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, name=st.sampled_from([*GROUP_RELATIVE, "reinforce_pp_baseline"]))
def test_shifting_a_group_of_several_changes_nothing(seed: int, name: str) -> None:
    rewards, groups, mask_BT = batches(seed)
    shift = torch.where(groups == 5, 4.0, torch.where(groups == 0, -7.0, 0.0))
    plain = estimate(name, rewards, groups, mask_BT)
    torch.testing.assert_close(estimate(name, rewards + shift, groups, mask_BT), plain)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gamma=st.sampled_from([1.0, 0.9]))
def test_whitened_advantages_have_mean_zero_and_variance_one(seed: int, gamma: float) -> None:
    rewards, groups, mask_BT = batches(seed)
    rewards[0], rewards[3] = 1.0, 1.5
    for name in ("reinforce_pp", "reinforce_pp_baseline"):
        value_N = estimate(
            name, rewards, groups, mask_BT, gamma=gamma if name == "reinforce_pp" else 1.0
        )[mask_BT]
        if value_N.any():
            assert abs(value_N.mean().item()) < 1e-5
            assert value_N.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", SEQUENCE_LEVEL)
def test_sequence_level_kl_is_taken_off_the_reward(name: str) -> None:
    rewards, groups, mask_BT = batches(3)
    kl_BT = torch.rand(6, 9)
    penalised = estimate(name, rewards, groups, mask_BT, kl_BT, kl_coef=0.2)
    by_hand = estimate(name, rewards - 0.2 * (kl_BT * mask_BT).sum(1), groups, mask_BT)
    torch.testing.assert_close(penalised, by_hand, atol=1e-5, rtol=1e-4)


def plain_gae(
    rewards: Tensor, mask_BT: Tensor, value_BT: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """One policy token after the other, from the last, as the textbook has it."""
    advantage_BT = torch.zeros(mask_BT.shape)
    for row, reward in enumerate(rewards.tolist()):
        upcoming = advantage = 0.0
        for t in reversed(mask_BT[row].nonzero()[:, 0].tolist()):
            value = float(value_BT[row, t])
            advantage = reward + gamma * upcoming - value + gamma * lam * advantage
            advantage_BT[row, t], upcoming, reward = advantage, value, 0.0
    return advantage_BT


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    num_tokens=st.integers(1, 70),
    gamma=st.sampled_from([1.0, 0.97, 0.5]),
    lam=st.sampled_from([1.0, 0.9, 0.0]),
)
def test_gae_equals_a_plain_loop_over_policy_tokens(
    seed: int, num_tokens: int, gamma: float, lam: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(4, num_tokens, generator=generator) < 0.6
    mask_BT &= seed % 5 > 0  # none at all
    value_BT = torch.randn(4, num_tokens, generator=generator)
    rewards = torch.randn(4, generator=generator)
    found = estimate(
        "gae", rewards, torch.zeros(4), mask_BT, gamma=gamma, lam=lam, value_BT=value_BT
    )
    expected = plain_gae(rewards, mask_BT, value_BT, gamma=gamma, lam=lam)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_one_token_answers_get_their_own_advantage(name: str) -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4)
    advantages = estimate(name, rewards, groups, mask("..p", ".p.", ".p.", ".p."))
    longer = estimate(name, rewards, groups, mask("..p", ".p.", ".p.", ".p."), gamma=0.5)
    assert advantages[0, 2] > advantages[1, 1]
    assert torch.equal(advantages, longer), "with one token each there is nothing to discount"


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shift=st.sampled_from([-4.0, 0.5, 100.0]))
def test_whitening_over_the_batch_forgets_a_shift_of_all_rewards(seed: int, shift: float) -> None:
    rewards, groups, mask_BT = batches(seed)
    plain = estimate("reinforce_pp", rewards, groups, mask_BT)
    moved = estimate("reinforce_pp", rewards + shift, groups, mask_BT)
    torch.testing.assert_close(moved, plain, atol=1e-5, rtol=1e-5)


def test_every_estimator_is_covered_here() -> None:
    assert set(ESTIMATORS) == {*CRITIC_FREE, "gae"}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize(
    "wrong",
    [
        {"reward_B": torch.zeros(1)},
        {"reward_B": torch.zeros(2, 1)},
        {"group_B": torch.zeros(3, dtype=torch.long)},
        {"mask_BT": torch.ones(2)},
        {"kl_BT": torch.zeros(2, 1)},
        {"value_BT": torch.zeros(1, 3)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_shapes_that_do_not_belong_together_are_refused_not_broadcast(name, wrong) -> None:
    right = {
        "reward_B": torch.zeros(2),
        "group_B": torch.zeros(2, dtype=torch.long),
        "mask_BT": torch.ones(2, 3),
        "value_BT": torch.zeros(2, 3),
    }
    estimate(name, **right)
    with pytest.raises(ValueError, match=r"the mask is \(B, T\)"):
        estimate(name, **(right | wrong))


def test_rewards_by_turn_are_returns_from_where_they_were_earned() -> None:
    """One step of R3-RAG: three tokens, k1 = .1, −.2, .3 at β = .01, .96 at the last one."""
    kl_BT = torch.tensor([[0.1, -0.2, 0.3]])
    value_BT = torch.tensor([[0.5, 0.4, 0.6]])
    given = {"kl_BT": kl_BT, "kl_coef": 0.01, "value_BT": value_BT}
    mask_BT = torch.ones(1, 3, dtype=torch.bool)
    for earned_BT in (None, torch.tensor([[0.0, 0.0, 0.96]])):
        found = estimate(
            "gae", torch.tensor([0.96]), torch.tensor([0]), mask_BT, earned_BT=earned_BT, **given
        )
        torch.testing.assert_close(found, torch.tensor([[0.458, 0.559, 0.357]]), rtol=0, atol=5e-4)
    early = estimate(
        "gae",
        torch.tensor([0.96]),
        torch.tensor([0]),
        mask_BT,
        value_BT=torch.zeros(1, 3),
        gamma=0.5,
        earned_BT=torch.tensor([[0.0, 0.96, 0.0]]),
    )
    torch.testing.assert_close(early, torch.tensor([[0.48, 0.96, 0.0]]))


def test_facts_say_of_every_estimator_what_it_compares_and_uses() -> None:
    compared = {name: facts.compares for name, facts in ESTIMATORS.items()}
    assert {name for name, what in compared.items() if what == "critic"} == {"gae"}
    rewards, groups = torch.tensor([1.0, 1.0]), torch.tensor([0, 0])
    for name, what in compared.items():
        if what == "group":
            assert not estimate(name, rewards, groups, mask("pp", "p.")).any(), name
    for name, facts in ESTIMATORS.items():
        if "gamma" in facts.uses:
            continue
        given = (name, torch.tensor([1.0, 0.0]), groups, mask("ppp", "ppp"))
        assert torch.equal(estimate(*given, gamma=0.5), estimate(*given, gamma=1.0)), name
