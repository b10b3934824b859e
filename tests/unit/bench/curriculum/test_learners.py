"""The benchmark's learners, and the adaptive policy on a few of them."""

from statistics import fmean

import numpy as np
import pytest

from bench.curriculum import comparison as bench
from ur2.curriculum.options import CurriculumOptions


@pytest.fixture(scope="module")
def worlds():
    return [bench.kinds_world(np.random.default_rng(seed)) for seed in (100, 101, 102)]


def test_adaptive_comes_near_the_oracle_with_few_searches(worlds):
    options = CurriculumOptions(policy="adaptive", cost_per_search=bench.COST)
    compared = [bench.compare(world, options, seed) for seed, world in enumerate(worlds)]
    assert fmean(one.reward_share("adaptive") for one in compared) > 0.95
    assert fmean(one.search_share("adaptive") for one in compared) < 0.65
    for one in compared:
        assert one.reward_share("adaptive") > one.reward_share("never")
        assert max(one.reward_share(name) for name in one.played) <= 1 + 1e-9


def test_learners_learn_to_search_only_where_documents_help_and_only_if_they_may(worlds):
    (world, *_) = worlds
    before = bench.Learner(world)
    searching = before.rates()[2][0]
    for mode in (0.0, 1.0):
        learner = bench.Learner(world)
        for _ in range(100):
            learner.step(np.full((1, len(world.kinds)), mode))
        changed = dict(zip(world.kinds, learner.rates()[2][0] - searching, strict=True))
        if mode:
            assert changed["emerging"] > 0 > changed["harmful"]
        else:
            assert set(changed.values()) == {0.0}


def test_a_step_counts_what_was_solved_less_what_searching_cost(worlds):
    (world, *_) = worlds
    p, q, u = (values[0] for values in bench.Learner(world).rates())
    reward, searches = bench.Learner(world).step(np.full((1, len(world.kinds)), 0.5))
    assert searches[0] == pytest.approx(0.5 * u * world.k)
    right = 0.5 * p + 0.5 * (u * q + (1 - u) * p)
    assert reward[0] == pytest.approx(right - bench.COST * searches[0])
