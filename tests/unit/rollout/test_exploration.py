"""Branches beside the policy's own samples: REX-RAG's vectors, and explorers of anyone's."""

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from ur2.algorithms.options import AlgorithmOptions
from ur2.environments.base import Ask, Branch, End, Piece, Reply, Turn
from ur2.environments.game import Game
from ur2.errors import InputError, PluginError
from ur2.options import Options
from ur2.rollout.exploration import Exploration, ExplorationOptions, ExplorerKind
from ur2.rollout.options import SamplingOptions
from ur2.rollout.rex_rag import RexRag, RexRagOptions, mixture
from ur2.rollout.worker import RolloutWorker
from ur2.testing.players import TOKENIZER, ScriptedEngine, scripted_players
from ur2.trainer.batching import make_batch, to_batch
from ur2.trainer.record.metrics import step_metrics
from ur2.types import Author, Explored, Group, Sample, Score, ScoredGroup, Status

SEARCH = "I look. <search> France </search>"
WRONG, RIGHT = "It is <answer> Rome </answer>", "It is <answer> Paris </answer>"
WORDS = "<think> Again."


class Texts:
    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(TOKENIZER.encode(text))

    def decode(self, token_ids: Any) -> str:
        return TOKENIZER.decode(token_ids)


class Policy:
    """Gives every token the same probability, but for those of samples named here."""

    def __init__(self, **of_sample: float) -> None:
        self.of_sample = of_sample
        self.asked: list[Sample] = []

    async def logprobs(self, samples: Any) -> list[Any]:
        self.asked += samples
        return [
            np.where(s.mask, self.of_sample.get(s.id.partition("+")[2], math.log(0.01)), 0.0)
            for s in samples
        ]


def scored(group: Group) -> ScoredGroup:
    scores = [float("Paris" in (t.answer or "")) for t in group.trajectories]
    return ScoredGroup(
        group=group,
        scores=tuple(Score(total=s, parts={"answer": s}, correct=s) for s in scores),
    )


async def played(game: Any, *texts: str, num: int = 1, **assignment: Any) -> ScoredGroup:
    worker = RolloutWorker(game.make_players(ScriptedEngine(game.turns(*texts))), seed=0)
    group = await worker.run_group(game.assignment(**assignment), num, SamplingOptions())
    return scored(group)


def rex(**options: Any) -> RexRag:
    return RexRag(RexRagOptions(**{"probability": 1.0, "sentences": (WORDS,), **options}), Texts())


async def test_a_wrong_answer_is_cut_off_and_the_policy_goes_on_from_the_exact_tokens(game):
    group = await played(game, SEARCH, WRONG)
    (branch,) = rex().branches(group, np.random.default_rng(0))
    (parent,) = group.group.trajectories
    assert branch.parent == parent.id
    *kept, cut = branch.segments
    assert tuple(kept) == parent.segments[: len(kept)]
    assert cut.text == "It is "
    assert cut.token_ids == parent.segments[len(kept)].token_ids[: len(cut.token_ids)]
    assert len(cut.logprobs) == len(cut.token_ids) == sum(r.num_tokens for r in cut.weight_versions)
    worker = RolloutWorker(game.make_players(ScriptedEngine(game.turns(RIGHT))), seed=0)
    more = await worker.run_group(game.assignment(), 1, SamplingOptions(), 1, (branch,))
    (clone,) = more.trajectories
    assert clone.segments[: len(branch.segments)] == branch.segments
    injected = clone.segments[len(branch.segments)]
    assert (injected.author, injected.text) == (Author.INJECTED, WORDS)
    assert (clone.answer, clone.parent, clone.id) == ("Paris", parent.id, f"{parent.id}+1")
    assert clone.events == parent.events


@pytest.mark.parametrize(
    "texts", [(RIGHT,), ("No answer.<|end|>",), ("x" * 999,)], ids=["right", "none", "cut"]
)
async def test_only_wrong_answers_are_cloned(game, texts):
    group = await played(game, *texts)
    assert rex().branches(group, np.random.default_rng(0)) == []


async def test_clones_are_as_frequent_as_asked_and_the_same_for_the_same_seed(game):
    group = await played(game, *[WRONG] * 400, num=400)
    counts = [
        len(rex(probability=20 / 101).branches(group, np.random.default_rng(seed)))
        for seed in (0, 0, 1)
    ]
    assert counts[0] == counts[1] != counts[2]
    assert counts[0] / 400 == pytest.approx(20 / 101, abs=0.06)


@pytest.mark.parametrize(
    ("old", "mu", "share", "expected"),
    [
        (0.5, 0.0, 200 / 2760, math.exp(-0.7684)),  # a sample of the policy's own
        (0.5, 0.559, 0.1, 0.5059),  # a clone before the injection, e .64, position 4
        (0.01, 1.0, 0.1, 0.109),  # the first injected token
    ],
)
def test_the_mixture_has_the_published_values(old, mu, share, expected):
    with np.errstate(divide="ignore"):
        found = mixture(np.log([old]), np.log([mu]), share)
    assert np.exp(found[0]) == pytest.approx(expected, rel=1e-3)


def sample_of(explored: Explored | None, *logprobs: float) -> Sample:
    size = len(logprobs) + 1
    return Sample(
        id="s",
        token_ids=np.arange(size),
        mask=np.arange(size) > 0,
        advantages=np.zeros(size, dtype=np.float32),
        sampler_logprobs=np.asarray([0.0, *logprobs], dtype=np.float32),
        explored=explored,
    )


def explored(*injected: int, size: int, share: float = 0.1, wrong: float = 0.64) -> Explored:
    return Explored(
        is_branch=bool(injected),
        injected=np.isin(np.arange(size), injected),
        num_prompt_tokens=1,
        share_branched=share,
        share_wrong=wrong,
    )


def test_each_token_has_the_probability_of_what_drew_it():
    half = [math.log(0.5)] * 6
    own = rex().behaviour(sample_of(explored(size=7, share=200 / 2760), *half))
    np.testing.assert_allclose(own[1:], -0.7684, atol=1e-4)
    clone = rex().behaviour(sample_of(explored(5, size=7), *half))
    assert np.exp(clone[4]) == pytest.approx(0.5059, abs=1e-4)  # position 4
    assert clone[5] == pytest.approx(math.log(0.5)), "as admitted"
    assert clone[6] == pytest.approx(math.log(0.5)), "after it: the policy's"
    all_right = rex().behaviour(sample_of(explored(5, size=7, wrong=0.0), *half))
    assert np.isfinite(all_right).all()
    assert all_right.max() <= 1e-6
    plain = sample_of(None, *half)
    assert rex().behaviour(plain) is plain.sampler_logprobs


async def test_the_likeliest_clones_join_the_group_and_their_words_state_their_probability(game):
    group = await played(game, WRONG, WRONG, RIGHT, num=3)
    explorer = rex(sentences=("ab", "ac", "ad", "ae", "af"), keep=1)
    branches = explorer.branches(group, np.random.default_rng(0))
    assert len(branches) == 2
    engine = ScriptedEngine(game.turns(RIGHT, WRONG))
    worker = RolloutWorker(game.make_players(engine), seed=0)
    more = scored(
        await worker.run_group(game.assignment(), 2, SamplingOptions(), 3, tuple(branches))
    )
    policy = Policy(**{"3": math.log(0.01), "4": math.log(0.02)})
    admitted = await explorer.admit(group, more, policy)
    assert admitted.group.trajectories[:3] == group.group.trajectories
    (clone,) = admitted.group.trajectories[3:]
    assert clone.id.endswith("+4"), "the likelier"
    (words,) = [s for s in clone.segments if s.author is Author.INJECTED]
    share = 1 / 4
    expected = [(1 - share) * 0.02 + share * mu for mu in (1.0, 1 / 5)]
    np.testing.assert_allclose(np.exp(words.logprobs), expected, rtol=1e-5)
    assert words.is_trained
    assert [int(s.mask.sum()) for s in policy.asked] == [2, 2], "the injected tokens alone"


async def test_a_branch_counts_in_the_comparison_and_in_nothing_that_the_policy_is_judged_by(game):
    group = await played(game, *[WRONG] * 4, RIGHT, num=5)
    explorer = rex()
    branch = explorer.branches(group, np.random.default_rng(0))[0]
    worker = RolloutWorker(game.make_players(ScriptedEngine(game.turns(RIGHT))), seed=0)
    more = scored(await worker.run_group(game.assignment(), 1, SamplingOptions(), 5, (branch,)))
    admitted = await explorer.admit(group, more, Policy())
    batch = to_batch([admitted], AlgorithmOptions())
    advantages = [float(s.advantages[s.mask][-1]) for s in batch.samples]
    np.testing.assert_allclose(advantages, [-0.6455] * 4 + [1.291] * 2, atol=1e-3)
    metrics = step_metrics([admitted], version=0)
    assert metrics["accuracy/mean"] == 0.2
    assert metrics["explore/accuracy"] == 1.0
    assert metrics["explore/branches_per_group"] == 1.0
    assert len(admitted.of_policy.scores) == 5


class Again:
    """An explorer of someone's: goes on from every sample's prompt with a word."""

    class Options(Options):
        word: str = "Hm."

    def __init__(self, options: Any, texts: Any) -> None:
        self.options = options

    def branches(self, scored: ScoredGroup, rng: Any) -> list[Branch]:
        return [
            Branch(
                parent=t.id, segments=t.segments[:1], events=(),
                inject=Piece(before=self.options.word, author=Author.INJECTED),
            )
            for t in scored.group.trajectories
        ]  # fmt: skip

    async def admit(self, scored: ScoredGroup, more: ScoredGroup, models: Any) -> ScoredGroup:
        group = scored.group
        trajectories = (*group.trajectories, *more.group.trajectories)
        return ScoredGroup(
            group=replace(group, trajectories=trajectories), scores=(*scored.scores, *more.scores)
        )

    def behaviour(self, sample: Sample) -> Any:
        return sample.sampler_logprobs - 1.0


def load(kind: type, **options: Any) -> Exploration:
    return Exploration(
        ExplorerKind(name="mine", kind=kind, options=kind.Options(**options)), Texts(), seed=0
    )


async def test_an_explorer_of_ones_own_plays_and_states_how_likely_its_tokens_were(game):
    group = await played(game, WRONG)
    exploration = load(Again, word="So:")
    branches = exploration.branches(group)
    worker = RolloutWorker(game.make_players(ScriptedEngine(game.turns(RIGHT))), seed=0)
    more = scored(await worker.run_group(game.assignment(), 1, SamplingOptions(), 1, branches))
    admitted = await exploration.admit(group, more, Policy())
    words = admitted.group.trajectories[1].segments[1]
    assert (words.text, words.is_trained) == ("So:", False), "nobody said how likely they were"
    batch, _ = await make_batch(
        [admitted], AlgorithmOptions(), Policy(), behaviour=exploration.behaviour
    )
    plain = to_batch([admitted], AlgorithmOptions())
    for sample, before in zip(batch.samples, plain.samples, strict=True):
        shift = np.where(sample.mask, -1.0, 0.0)
        np.testing.assert_allclose(sample.sampler_logprobs, before.sampler_logprobs + shift)
        np.testing.assert_array_equal(sample.mask, before.mask)


class Breaks(Again):
    how: ClassVar[str] = ""

    def branches(self, scored: ScoredGroup, rng: Any) -> list[Branch]:
        (branch,) = super().branches(scored, rng)
        match self.how:
            case "raises":
                raise ValueError("no")
            case "stranger":
                return [replace(branch, parent="x")]
            case "prompt":
                segment = replace(branch.segments[0], token_ids=(1, 2))
                return [replace(branch, segments=(segment,))]
        return [branch]

    async def admit(self, scored: ScoredGroup, more: ScoredGroup, models: Any) -> ScoredGroup:
        return more if self.how == "drops" else await super().admit(scored, more, models)

    def behaviour(self, sample: Sample) -> Any:
        if self.how == "shape":
            return sample.sampler_logprobs[1:]
        return np.full(len(sample.mask), math.nan if self.how == "nan" else 1.0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"explorer 'mine' on group .*ValueError: no .*test_exploration\.py, line"),
        ("stranger", "goes on from 'x'"),
        ("prompt", "begins with another prompt"),
        ("drops", "changed the policy's own samples"),
        ("shape", r"shape \(35,\)"),
        ("nan", "no log-probabilities"),
        ("positive", "no log-probabilities"),
    ],
)
async def test_an_explorer_that_breaks_the_contract_is_blamed(game, monkeypatch, how, message):
    monkeypatch.setattr(Breaks, "how", how)
    group = await played(game, WRONG)
    exploration = load(Breaks)

    async def go_through() -> None:
        branches = exploration.branches(group)
        worker = RolloutWorker(game.make_players(ScriptedEngine(game.turns(RIGHT))), seed=0)
        more = scored(await worker.run_group(game.assignment(), 1, SamplingOptions(), 1, branches))
        admitted = await exploration.admit(group, more, Policy())
        await make_batch([admitted], AlgorithmOptions(), Policy(), behaviour=exploration.behaviour)

    with pytest.raises(PluginError, match=message):
        await go_through()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "rex"}, r"exploration\.name: 'rex' is unknown"),
        ({"name": "math:floor"}, "has no branches, admit, behaviour, Options"),
        ({"name": "rex_rag", "rex_rag": {"probability": 2}}, "probability"),
        ({"name": f"{__name__}:Again", "options": {"wort": "x"}}, "wort"),
    ],
)
def test_an_explorer_that_cannot_be_used_is_a_wrong_option(options, message):
    with pytest.raises(InputError, match=message):
        ExplorerKind.load(ExplorationOptions.load(options, where="exploration"))


def test_by_default_nothing_is_explored():
    assert ExplorerKind.load(ExplorationOptions()) is None


class Counts:
    """Keeps state: answers only the turn that its count allows."""

    class Options(Options):
        pass

    def __init__(self, assignment: Any, options: Any, services: Any) -> None:
        self.num = 0

    def opening(self) -> Ask:
        return Ask(pieces=(Piece(before="Go"),), max_tokens=20, fresh=True)

    async def react(self, turn: Turn) -> Reply:
        self.num += 1
        if self.num == 2:
            return Reply(then=End(status=Status.ANSWERED, answer=f"after {self.num}"))
        return Reply(then=Ask(pieces=(Piece(text=f"seen {self.num}"),), max_tokens=20))


async def test_an_environment_that_keeps_state_is_shown_the_turns_before_a_branch(game):
    kind = Game(name="counts", kind=Counts, options=Counts.Options())
    players = scripted_players(ScriptedEngine(game.turns("a<|end|>", "b<|end|>")), kind)
    worker = RolloutWorker(players, seed=0)
    group = await worker.run_group(game.assignment(), 1, SamplingOptions())
    (parent,) = group.trajectories
    assert parent.answer == "after 2"
    branch = Branch(
        parent=parent.id, segments=parent.segments[:3], events=(),
        inject=Piece(before="!", author=Author.INJECTED),
    )  # fmt: skip
    again = RolloutWorker(scripted_players(ScriptedEngine(game.turns("c<|end|>")), kind), seed=0)
    more = await again.run_group(game.assignment(), 1, SamplingOptions(), 1, (branch,))
    assert more.trajectories[0].answer == "after 2", "it had seen the first turn"
