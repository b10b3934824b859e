"""Which contexts become samples, what each is compared with, and where its reward is earned."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ur2.algorithms.options import AlgorithmOptions
from ur2.errors import InputError, PluginError
from ur2.trainer.batching import to_batch
from ur2.trainer.credit import CREDIT, at_tokens
from ur2.types import (
    Assignment,
    Author,
    Group,
    Level,
    Question,
    Score,
    ScoredGroup,
    Segment,
    Status,
    Trajectory,
    VersionRun,
)

QUESTION = Question(id="q", task="qa", text="?", answers=("!",), level=Level.EASY)


def prompt(role="policy"):
    return Segment(author=Author.PROMPT, token_ids=(1, 2), text="?", role=role)


def wrote(num_tokens=2, role="policy"):
    return Segment(
        author=Author.POLICY,
        token_ids=tuple(range(num_tokens)),
        text="!",
        logprobs=(-0.5,) * num_tokens,
        weight_versions=(VersionRun(0, num_tokens),),
        role=role,
    )


READ = Segment(author=Author.ENVIRONMENT, token_ids=(7, 8, 9), text="doc")


def steps(*roles):
    """A trajectory of one turn per context."""
    return [segment for role in roles for segment in (prompt(role), wrote(role=role))]


def scored(*played, group="g"):
    """A group of (segments, total, turns)."""
    assignment = Assignment(id=group, question=QUESTION, retrieval=True, reason="", step=1)
    trajectories = tuple(
        Trajectory(id=f"{group}/{i}", segments=tuple(s), events=(), status=Status.ANSWERED)
        for i, (s, *_) in enumerate(played)
    )
    scores = tuple(
        Score(total=total, parts={}, correct=0.0, turns=tuple(turns)) for _, total, turns in played
    )
    return ScoredGroup(group=Group(assignment=assignment, trajectories=trajectories), scores=scores)


def advantages(groups, **options):
    """By sample id, the advantage of the first trained token."""
    batch = to_batch(groups, AlgorithmOptions(**options))
    return {s.id: s.advantages[s.mask][0].item() for s in batch.samples}


def test_a_trajectory_of_several_contexts_is_no_one_sample():
    group = scored((steps("policy", "policy"), 1.0, ()))
    with pytest.raises(InputError, match=r"g/0.*2 contexts.*algorithm\.credit"):
        to_batch([group], AlgorithmOptions(estimator="reinforce"))


def test_each_context_earns_what_its_turns_did_and_the_last_one_the_rest():
    # R3-RAG: relevance .8 and .6 scaled by 1.6, then 2 for the right answer
    group = scored((steps("policy", "policy", "policy"), 4.24, (1.28, 0.96, 0.0)))
    found = advantages([group], estimator="reinforce", credit="context")
    assert found == pytest.approx({"g/0#0": 1.28, "g/0#1": 0.96, "g/0#2": 2.0})


def test_shared_credit_gives_each_context_the_reward_of_the_whole():
    group = scored((steps("policy", "policy"), 4.0, (1.0, 0.0)))
    found = advantages([group], estimator="reinforce", credit="shared")
    assert found == pytest.approx({"g/0#0": 4.0, "g/0#1": 4.0})


def test_a_trajectory_counts_once_in_its_groups_mean_however_many_samples_it_is():
    group = scored(
        (steps("policy", "policy", "policy"), 1.0, ()),
        (steps("policy"), 0.0, ()),
    )
    found = advantages([group], estimator="dr_grpo", credit="shared")
    assert found == pytest.approx({"g/0#0": 0.5, "g/0#1": 0.5, "g/0#2": 0.5, "g/1": -0.5})
    # sd with n − 1 over the two trajectories: sqrt(.5)
    found = advantages([group], estimator="grpo", credit="shared")
    assert found["g/1"] == pytest.approx(-0.5 / 0.5**0.5, rel=1e-4)


def test_the_others_of_rloo_are_the_other_trajectories():
    group = scored(
        (steps("policy", "policy"), 3.0, (1.0, 0.0)),  # contexts earn 1 and 2
        (steps("policy"), 0.5, ()),
        (steps("policy"), 1.5, ()),
    )
    found = advantages([group], estimator="rloo", credit="context")
    # the first one's others: (.5 + 1.5) / 2; the second one's: (1.5 + 1.5) / 2
    assert found == pytest.approx({"g/0#0": 0.0, "g/0#1": 1.0, "g/1": -1.0, "g/2": 0.5})


def test_comparisons_are_within_a_role():
    group = scored(
        (steps("rewriter", "generator"), 3.0, (1.0, 0.0)),
        (steps("rewriter", "generator"), 1.0, (0.0, 0.0)),
    )
    found = advantages([group], estimator="dr_grpo", credit="context")
    assert found == pytest.approx({"g/0#0": 0.5, "g/0#1": 0.5, "g/1#0": -0.5, "g/1#1": -0.5})


def test_a_frozen_role_is_compared_and_does_not_learn():
    group = scored((steps("judge", "policy"), 1.0, ()), (steps("judge", "policy"), 0.0, ()))
    options = AlgorithmOptions(estimator="dr_grpo", credit="shared", frozen_roles=("judge",))
    assert [s.id for s in to_batch([group], options).samples] == ["g/0#1", "g/1#1"]


def test_rewards_lie_at_the_last_token_of_the_turn_that_earned_them():
    segments = [prompt(), wrote(2), READ, wrote(3)]
    trajectory = scored((segments, 5.0, (2.0, 1.0))).group.trajectories[0]
    score = Score(total=5.0, parts={}, correct=0.0, turns=(2.0, 1.0))
    (credited,) = CREDIT["trajectory"](trajectory, score)
    assert at_tokens(credited) == [0, 0, 0, 2.0, 0, 0, 0, 0, 0, 3.0]


def test_returns_flow_through_documents_and_do_not_decay_there():
    group = scored(([prompt(), wrote(2), READ, wrote(1)], 3.0, (1.0, 0.0)))
    rule = AlgorithmOptions(estimator="reinforce_pp", gamma=0.5)
    (sample,) = to_batch([group], rule).samples
    # G = 0 + .5·(1 + .5·2) = 1, 2, 2: whitened over three tokens
    returns = np.array([1.0, 2.0, 2.0])
    expected = (returns - returns.mean()) / returns.std()
    np.testing.assert_allclose(sample.advantages[sample.mask], expected, rtol=1e-5)


def test_injected_tokens_learn_only_where_their_drawer_says_how_likely_they_were():
    told = Segment(author=Author.INJECTED, token_ids=(4, 5), text="so", logprobs=(-1.0, -2.0))
    untold = Segment(author=Author.INJECTED, token_ids=(6,), text="now")
    group = scored(([prompt(), told, untold, wrote(1)], 1.0, ()))
    (sample,) = to_batch([group], AlgorithmOptions(estimator="reinforce")).samples
    assert sample.mask.tolist() == [False, False, True, True, False, True]
    np.testing.assert_allclose(sample.sampler_logprobs, [0, 0, -1, -2, 0, -0.5])


@given(
    contexts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    rewards=st.lists(st.floats(-5, 5), min_size=6, max_size=6),
)
def test_whatever_is_shared_teaches_a_trajectory_as_it_would_alone(contexts, rewards):
    """The advantage of a shared reward does not depend on how many contexts anyone has."""
    many = [(steps(*["policy"] * n), r, ()) for n, r in zip(contexts, rewards, strict=False)]
    one = [(steps("policy"), r, ()) for _, r in zip(contexts, rewards, strict=False)]
    for estimator in ("grpo", "dr_grpo", "rloo"):
        split = advantages([scored(*many)], estimator=estimator, credit="shared")
        whole = advantages([scored(*one)], estimator=estimator, credit="shared")
        for name, value in split.items():
            assert value == pytest.approx(whole[name.partition("#")[0]], rel=1e-4, abs=1e-5)


def test_an_estimator_and_a_rule_of_ones_own_are_named_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_maths.py").write_text(
        "def double(signals):\n"
        "    return 2 * signals.reward_B[:, None].expand(signals.mask_BT.shape)\n"
        "def halves(trajectory, score):\n"
        "    from dataclasses import replace\n"
        "    from ur2.trainer.credit import whole\n"
        "    return whole(trajectory, replace(score, total=score.total / 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    group = scored((steps("policy"), 3.0, ()))
    found = advantages([group], estimator="my_maths:double", credit="my_maths:halves")
    assert found == {"g/0": 3.0}
    with pytest.raises(PluginError, match=r"algorithm\.estimator 'math:sqrt': TypeError"):
        advantages([group], estimator="math:sqrt")
    for key in ("estimator", "loss"):
        with pytest.raises(
            InputError, match=f"algorithm.{key}: 'my_maths:none' cannot be imported"
        ):
            AlgorithmOptions(**{key: "my_maths:none"})


RULES = {
    "lost": (lambda one: None, "no Credited"),
    "bare": (lambda one: replace(one, segments=(), earned=()), "its first segment"),
    "short": (lambda one: replace(one, earned=()), "0 values in `earned` for 2 segments"),
    "unequal": (lambda one: replace(one, reward=9.0), "reward 9.0, and 1.0 in `earned`"),
    "endless": (lambda one: replace(one, reward=float("inf")), "reward inf"),
    "forged": (
        lambda one: replace(one, segments=(one.segments[0], replace(wrote(), logprobs=()))),
        "log-probabilities nobody stated",
    ),
    "raises": (lambda one: {}["x"], r"KeyError: 'x' \(test_credit.py, line \d+\)"),
    "exits": (lambda one: sys.exit(1), "SystemExit: 1"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_gives_no_samples_is_named_with_the_trajectory(name, monkeypatch):
    spoil, said = RULES[name]
    module = ModuleType("my_rules")
    module.rule = lambda t, score: tuple(map(spoil, CREDIT["trajectory"](t, score)))
    monkeypatch.setitem(sys.modules, "my_rules", module)
    with pytest.raises(PluginError, match=rf"algorithm.credit 'my_rules:rule' on .*'g/0'.*{said}"):
        advantages([scored((steps("policy"), 1.0, ()))], credit="my_rules:rule")


ESTIMATORS = {
    "none": (lambda signals: None, "NoneType"),
    "flat": (lambda signals: signals.reward_B, r"advantages are \(1, 4\), not \(1,\)"),
    "one": (lambda signals: signals.earned_BT.sum(), r"not \(\)"),
    "column": (lambda signals: signals.reward_B[:, None], r"not \(1, 1\)"),
    "nan": (lambda signals: signals.earned_BT * float("nan"), "an advantage is not finite"),
    "huge": (lambda signals: signals.earned_BT * 1e300, "an advantage is not finite"),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_that_gives_no_advantages_is_named(name, monkeypatch):
    compute, said = ESTIMATORS[name]
    module = ModuleType("my_maths")
    module.estimator = compute
    monkeypatch.setitem(sys.modules, "my_maths", module)
    with pytest.raises(PluginError, match=rf"algorithm.estimator 'my_maths:estimator': .*{said}"):
        advantages([scored((steps("policy"), 1.0, ()))], estimator="my_maths:estimator")


def test_an_estimator_that_writes_into_its_input_trains_no_other_token(monkeypatch):
    def greedy(signals):
        signals.mask_BT.fill_(True)
        return signals.earned_BT.fill_(1.0)

    module = ModuleType("my_maths")
    module.greedy = greedy
    monkeypatch.setitem(sys.modules, "my_maths", module)
    options = AlgorithmOptions(estimator="my_maths:greedy")
    (sample,) = to_batch([scored((steps("policy"), 1.0, ()))], options).samples
    assert sample.advantages.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_an_empty_turn_loses_no_reward():
    trajectory = scored(([prompt(), wrote(2), wrote(0)], 1.0, (0.0, 0.25))).group.trajectories[0]
    score = Score(total=1.0, parts={}, correct=0.0, turns=(0.0, 0.25))
    (credited,) = CREDIT["trajectory"](trajectory, score)
    assert at_tokens(credited) == [0.0, 0.0, 0.0, 1.0]
