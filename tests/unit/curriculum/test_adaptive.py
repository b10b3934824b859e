import json
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from ur2.curriculum.adaptive import Adaptive
from ur2.curriculum.events import Switch
from ur2.curriculum.options import AdaptiveOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.curriculum.posterior import Arm, Bucket
from ur2.errors import InputError

SAMPLES = 8


def outcome(question, retrieval, solved, searches=0.0, step=1):
    return GroupOutcome(
        question=question,
        retrieval=retrieval,
        step=step,
        num_samples=SAMPLES,
        num_correct=SAMPLES * solved,
        num_searches=round(SAMPLES * searches),
        reward=solved,
    )


class World:
    """Groups that are solved with known rates."""

    def __init__(self, questions, cost=0.02, seed=0, **options):
        self.policy = Adaptive(AdaptiveOptions(**options), cost)
        self.rng = np.random.default_rng(seed)
        self.questions = questions
        self.step = 0
        self.decisions: list[tuple[bool, str]] = []

    def run(self, steps, rates, *, searches=1.0, per_step=12):
        """`rates`: solved with and without retrieval; returns the share of groups with it."""
        first = len(self.decisions)
        for _ in range(steps):
            self.step += 1
            seen = []
            for i in range(per_step):
                question = self.questions[(self.step * per_step + i) % len(self.questions)]
                decision = self.policy.decide(question, self.step, self.rng)
                self.decisions.append(decision)
                solved = self.rng.binomial(SAMPLES, rates[0 if decision[0] else 1]) / SAMPLES
                seen.append(outcome(question, decision[0], solved, searches * decision[0]))
            self.policy.observe(seen)
        return sum(on for on, _ in self.decisions[first:]) / max(steps * per_step, 1)

    def reasons(self):
        return {reason for _, reason in self.decisions}


@pytest.fixture
def questions(make_questions):
    return make_questions({"qa/hard": 50})


def test_retrieval_stays_on_where_it_helps(questions):
    assert World(questions).run(60, (0.8, 0.2)) > 0.93


def test_retrieval_is_turned_off_where_it_brings_nothing(questions):
    world = World(questions)
    world.run(60, (0.5, 0.5))
    assert world.run(40, (0.5, 0.5)) < 0.2


def test_retrieval_is_turned_off_where_it_brings_less_than_its_price(questions):
    dear, cheap = World(questions, cost=0.4), World(questions, cost=0.02)
    for world in (dear, cheap):
        world.run(60, (0.6, 0.4))
    assert dear.run(40, (0.6, 0.4)) < 0.2
    assert cheap.run(40, (0.6, 0.4)) > 0.8


def test_a_gain_that_comes_late_is_noticed(questions):
    world = World(questions)
    world.run(80, (0.3, 0.3))
    assert world.run(20, (0.3, 0.3)) < 0.4
    world.run(40, (0.9, 0.3))
    assert world.run(20, (0.9, 0.3)) > 0.8


def test_a_gain_that_vanishes_is_noticed(questions):
    world = World(questions)
    world.run(60, (0.9, 0.2))
    world.run(90, (0.9, 0.9), searches=2.0)
    assert world.run(20, (0.9, 0.9), searches=2.0) < 0.2


def test_a_policy_that_does_not_search_yet_keeps_its_chance_to_learn_it(questions):
    assert World(questions).run(150, (0.2, 0.2), searches=0.05) > 0.9


def test_nothing_is_turned_off_before_patience_ends(questions):
    world = World(questions, patience_steps=30)
    assert world.run(30, (0.0, 0.9)) > 0.8
    assert world.policy.take_events() == []
    assert world.run(10, (0.0, 0.9)) < 0.3


def test_without_evidence_in_both_modes_nothing_is_switched(questions):
    policy = Adaptive(AdaptiveOptions(min_groups=3, patience_steps=0), 0.02)
    rng = np.random.default_rng(0)
    policy.observe([outcome(questions[0], True, 0.0, 1.0)] * 20)
    policy.observe([outcome(questions[0], False, 1.0)] * 2)
    policy.decide(questions[1], 1, rng)
    assert policy.take_events() == []
    policy.observe([outcome(questions[2], False, 1.0)] * 2)
    policy.decide(questions[1], 2, rng)
    (event,) = policy.take_events()
    assert not event.retrieval


@settings(max_examples=30)
@given(exploration=st.floats(0.02, 0.5), seed=st.integers(0, 2**31), count=st.integers(1, 300))
def test_exploration_is_never_more_than_one_group_short(make_questions, exploration, seed, count):
    policy = Adaptive(AdaptiveOptions(exploration=exploration, leaves_after=None), 0.02)
    question, rng = make_questions({"qa/hard": 1})[0], np.random.default_rng(seed)
    # In both modes alike, and searched for: nothing is sure, so all of the share is spent.
    policy.observe([outcome(question, mode, 0.5, mode) for mode in (True, False)])
    explored = 0
    for number in range(1, count + 1):
        explored += policy.decide(question, 1, rng)[1] == "adaptive qa/hard explores"
        assert exploration * number - 1 <= explored <= exploration * number + 1


@pytest.mark.parametrize("exploration", [0.05, 0.2])
def test_what_is_sure_is_explored_less(questions, exploration):
    shares = {}
    for rates in ((0.5, 0.5), (1.0, 0.0)):
        world = World(questions, exploration=exploration, patience_steps=10**6, leaves_after=None)
        world.run(200, rates)
        explores = [reason.endswith("explores") for _, reason in world.decisions]
        shares[rates] = np.mean(explores)
    assert shares[0.5, 0.5] == pytest.approx(exploration, rel=0.35)
    assert shares[1.0, 0.0] < 0.6 * shares[0.5, 0.5]


def test_what_is_preferred_is_the_mode_without_exploration(questions):
    world = World(questions, exploration=0.5)
    assert world.policy.prefers(questions[0])
    world.run(60, (0.1, 0.9))
    assert not world.policy.prefers(questions[0])
    world.run(60, (0.9, 0.1))
    assert world.policy.prefers(questions[0])
    world.policy.observe([outcome(questions[0], False, 1.0)] * 3)
    assert not world.policy.prefers(questions[0])


def test_a_question_solved_time_and_again_without_retrieval_leaves(questions):
    policy, rng = Adaptive(AdaptiveOptions(leaves_after=3), 0.02), np.random.default_rng(0)
    known, other = questions[:2]
    for _ in range(3):
        assert policy.decide(known, 1, rng)[1] != "adaptive qa/hard solved without"
        policy.observe([outcome(known, False, 1.0)])
    assert policy.decide(known, 1, rng) == (False, "adaptive qa/hard solved without")
    assert policy.metrics()["curriculum/solved_without"] == 1.0
    assert policy.decide(other, 1, rng)[1] != "adaptive qa/hard solved without"
    policy.observe([outcome(known, False, 0.75)])
    assert policy.decide(known, 1, rng)[1] != "adaptive qa/hard solved without"


def test_a_question_that_has_left_counts_for_neither_mode(questions):
    policy = Adaptive(AdaptiveOptions(leaves_after=1), 0.02)
    policy.observe([outcome(questions[0], False, 1.0), outcome(questions[1], True, 0.5, 1.0)])
    gain = policy.metrics()["curriculum/gain/qa/hard"]
    policy.observe([outcome(questions[0], False, 1.0), outcome(questions[0], True, 0.0, 1.0)])
    assert policy.metrics()["curriculum/gain/qa/hard"] == gain


@settings(max_examples=25, deadline=None)
@given(done=st.integers(0, 40), seed=st.integers(0, 2**31))
def test_decisions_follow_from_seed_and_history_across_a_resume(make_questions, done, seed):
    questions = make_questions({"qa/hard": 3, "math/easy": 2})
    rates, cost = (0.6, 0.4), 0.1
    whole = World(questions, cost, seed)
    whole.run(done + 20, rates)
    first = World(questions, cost, seed)
    first.run(done, rates)
    second = World(questions, cost)
    second.policy.load_state_dict(json.loads(json.dumps(first.policy.state_dict())))
    second.rng, second.step = first.rng, first.step
    second.run(20, rates)
    assert second.decisions == whole.decisions[12 * done :]
    assert second.policy.state_dict() == whole.policy.state_dict()


def test_a_switch_is_an_event_with_the_numbers_it_rests_on(questions):
    world = World(questions, cost=0.1)
    world.run(60, (0.5, 0.5), searches=2.0)
    event = world.policy.take_events()[0]
    assert isinstance(event, Switch)
    assert world.policy.take_events() == []
    assert (event.bucket, event.retrieval) == ("qa/hard", False)
    assert 10 < event.step <= 60
    assert event.price == pytest.approx(0.2)
    assert event.lower <= event.price
    assert event.gain == pytest.approx(event.solved_with - event.solved_without)
    assert event.num_groups_with > event.num_groups_without >= 3
    assert f"step {event.step}: retrieval of qa/hard on -> off" in str(event)


@given(
    groups=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    correlation=st.floats(0, 1),
)
def test_the_posterior_is_a_beta_of_discounted_samples(make_questions, groups, correlation):
    question = make_questions({"qa/hard": 1})[0]
    bucket = Bucket(retrieval=True)
    for solved in groups:
        bucket.on.add(outcome(question, True, solved), correlation)
    weight = len(groups) * SAMPLES / (1 + (SAMPLES - 1) * correlation)
    solved = weight * np.mean(groups)
    prior = (1 + solved) / (2 + weight)
    reference = beta(2 * prior + solved, 2 * (1 - prior) + weight - solved)
    posterior = bucket.solved(bucket.on)
    assert posterior.mean == pytest.approx(reference.mean())
    assert posterior.variance == pytest.approx(reference.var())
    bound = bucket.lower_gain(0.8)
    deviation = np.sqrt(reference.var() + bucket.solved(bucket.off).variance)
    assert bound == pytest.approx(bucket.gain - NormalDist().inv_cdf(0.8) * deviation)


def test_one_mode_alone_suggests_no_gain(make_questions):
    question = make_questions({"qa/hard": 1})[0]
    bucket = Bucket(retrieval=True)
    for _ in range(10):
        bucket.on.add(outcome(question, True, 0.95), 0.5)
    assert abs(bucket.gain) < 0.05


def test_evidence_halves_in_a_half_life(make_questions):
    arm = Arm()
    arm.add(outcome(make_questions({"qa/hard": 1})[0], True, 0.5, 1.0), 0.0)
    policy = Adaptive(AdaptiveOptions(half_life_steps=4), 0.0)
    question = make_questions({"qa/hard": 1})[0]
    policy.observe([outcome(question, True, 0.5, 1.0)])
    policy.decide(question, 8, np.random.default_rng(0))
    kept = policy.state_dict()["buckets"]["qa/hard"]["on"]
    assert kept["num_groups"] == pytest.approx(0.25)
    assert kept["num_samples"] == pytest.approx(0.25 * arm.num_samples)


def test_hysteresis_must_leave_a_bound_below():
    with pytest.raises(InputError, match="hysteresis"):
        AdaptiveOptions.load({"confidence": 0.6, "hysteresis": 0.6}, where="adaptive")
