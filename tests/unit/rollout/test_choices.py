"""A turn that is one of given strings: drawn among them, recorded with what it was drawn among."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from ur2.algorithms.options import AlgorithmOptions
from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.environments import Ask, End, Piece, Reply
from ur2.environments.game import Game
from ur2.errors import ComponentError, InputError
from ur2.options import Options
from ur2.prompts.render import PromptRenderer
from ur2.rollout.choices import choose, read_choices
from ur2.rollout.demonstrated import demonstrated
from ur2.rollout.engines.base import Generation, GenerationRequest
from ur2.rollout.engines.hf_batch import RunningRequest, sample
from ur2.rollout.options import RolloutOptions
from ur2.testing import ScriptedEngine, check_environment, play, scripted_players, turns
from ur2.testing.players import PROMPT, TOKENIZER, play_scripted
from ur2.testing.records import make_assignment, make_question
from ur2.trainer.batching import to_batch
from ur2.trainer.coldstart import to_sample
from ur2.types import Author, Group, Score, ScoredGroup, Segment, Status, VersionRun

TEXTS = ("FETCH", "NO_FETCH", "FEED")
TOKENS = {"FETCH": (3, 5, 7), "NO_FETCH": (4, 4, 5, 7), "FEED": (3, 6, 8)}


class Table:
    """A renderer that looks tokens up, or has one per character."""

    def piece(self, text: str, *, before: str, author: Author) -> Segment:
        token_ids = TOKENS.get(before, tuple(map(ord, before)))
        return Segment(author=author, token_ids=token_ids, text=before)


CHOICES = read_choices(TEXTS, Table())
REQUEST = GenerationRequest(token_ids=(1, 2), max_tokens=1, temperature=0.7, top_p=0.1, top_k=1)
VOCABULARY = 12


def logits_after(token_ids: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(token_ids))
    return torch.randn(VOCABULARY, generator=generator)


class TableEngine:
    """Samples from logits that depend on the context, as the hf engine does."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.requests: list[GenerationRequest] = []
        self.version = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        row = RunningRequest(request=request, stop_token_ids=frozenset(), generator=self.generator)
        token, logprob = sample(logits_after(request.token_ids)[None], [row])
        self.version += 1
        return Generation(
            token_ids=(int(token),),
            logprobs=(float(logprob),),
            text="",
            finish="length",
            weight_versions=(VersionRun(self.version, 1),),
        )


def by_hand(text: str) -> list[float]:
    """The log-probability of each token, by softmax over what is still possible."""
    ids, logprobs = TOKENS[text], []
    for place, token in enumerate(ids):
        possible = [c for c in TOKENS.values() if c[:place] == ids[:place]]
        columns = sorted({c[place] for c in possible})
        logits = logits_after((*REQUEST.token_ids, *ids[:place])) / REQUEST.temperature
        restricted = logits[columns].log_softmax(-1)
        logprobs.append(float(restricted[columns.index(token)]))
    return logprobs


async def test_logprobs_are_those_of_the_restricted_distribution() -> None:
    engine = TableEngine(0)
    drawn = [await choose(engine.generate, REQUEST, CHOICES) for _ in range(60)]
    assert {d.text for d in drawn} == set(TEXTS)
    for one in drawn:
        assert one.token_ids == TOKENS[one.text]
        assert one.logprobs == pytest.approx(by_hand(one.text), abs=1e-6)
        assert one.finish == "stop"


async def test_frequencies_follow_the_restricted_distribution() -> None:
    engine, num_draws = TableEngine(7), 4000
    counts = Counter(
        [(await choose(engine.generate, REQUEST, CHOICES)).text for _ in range(num_draws)]
    )
    expected = {text: num_draws * torch.tensor(by_hand(text)).sum().exp() for text in TEXTS}
    assert float(sum(expected.values())) == pytest.approx(num_draws)
    chi_square = sum((counts[text] - expected[text]) ** 2 / expected[text] for text in TEXTS)
    assert chi_square < 9.21  # 2 degrees of freedom, 1 %


async def test_tokens_that_must_follow_are_written_without_being_sampled() -> None:
    engine = TableEngine(0)
    drawn = await choose(engine.generate, REQUEST, CHOICES)
    while drawn.text != "NO_FETCH":
        engine = TableEngine(engine.generator.initial_seed() + 1)
        drawn = await choose(engine.generate, REQUEST, CHOICES)
    assert len(engine.requests) == 1
    assert drawn.logprobs[1:] == (0.0, 0.0, 0.0)
    assert drawn.allowed == ((3, 4), (4,), (5,), (7,))
    assert drawn.weight_versions == ((1, 4),)


async def test_tokens_before_the_first_draw_are_of_the_weights_that_draw() -> None:
    choices = read_choices(("ax", "ay"), Table())

    async def generate(request: GenerationRequest) -> Generation:
        assert request.token_ids == (1, 2, ord("a"))
        return Generation(
            token_ids=(ord("y"),),
            logprobs=(-0.5,),
            text="y",
            finish="length",
            weight_versions=(VersionRun(5, 1),),
        )

    drawn = await choose(generate, REQUEST, choices)
    assert (drawn.text, drawn.logprobs, drawn.weight_versions) == ("ay", (0.0, -0.5), ((5, 2),))


async def test_each_draw_of_a_seeded_turn_has_a_seed_of_its_own() -> None:
    engine = TableEngine(0)
    seeded = GenerationRequest(token_ids=(1, 2), max_tokens=1, seed=3)
    for _ in range(20):
        await choose(engine.generate, seeded, CHOICES)
    at_place = {(len(r.token_ids), r.seed) for r in engine.requests}
    assert len(at_place) == 2
    assert len({seed for _, seed in at_place}) == 2


async def test_an_engine_that_samples_something_else_is_refused() -> None:
    async def generate(request: GenerationRequest) -> Generation:
        return Generation(
            token_ids=(9,), logprobs=(-1.0,), text="", finish="length", weight_versions=()
        )

    with pytest.raises(ComponentError, match="allowed_token_ids"):
        await choose(generate, REQUEST, CHOICES)


@pytest.mark.parametrize("texts", [("A",), "AB", ("A", "AB"), ("A", "A"), ("", "A")], ids=str)
def test_choices_that_cannot_be_told_apart_are_refused(texts) -> None:
    with pytest.raises(InputError, match="choices"):
        read_choices(texts, Table())


class Gate:
    """Asks whether to fetch, then for an answer in free words."""

    class Options(Options):
        """None."""

    Options: ClassVar = Options
    choices = ("FETCH", "NO_FETCH")

    def __init__(self, assignment, options, services) -> None:
        self._question = assignment.question
        self._turns: list[str] = []

    def opening(self) -> Ask:
        return Ask(
            pieces=(Piece(text=self._question.text),),
            fresh=True,
            max_tokens=1,
            choices=self.choices,
        )

    def written(self, turn: DemonstratedTurn) -> str:
        return turn.thought

    async def react(self, turn) -> Reply:
        self._turns.append(turn.text)
        if len(self._turns) == 1:
            assert turn.text in self.choices
            assert not turn.is_cut
            return Reply(then=Ask(pieces=(Piece(text="Go on."),), max_tokens=20))
        return Reply(then=End(status=Status.ANSWERED, answer=turn.text))


async def test_an_episode_records_what_each_token_of_a_choice_was_drawn_among() -> None:
    played = await play(Gate, "NO_FETCH", "Paris")
    wrote = [s for s in played.segments if s.author is Author.POLICY]
    assert [s.text for s in wrote] == ["NO_FETCH", "Paris<|end|>"]
    assert [len(ids) for ids in wrote[0].allowed] == [2, 1, 1, 1, 1, 1, 1, 1]
    assert wrote[1].allowed == ()


async def test_a_sample_knows_which_of_its_positions_were_restricted() -> None:
    played = await play(Gate, "FETCH", "Paris")
    scored = ScoredGroup(
        group=Group(assignment=make_assignment(), trajectories=(played,)),
        scores=(Score(total=1.0, parts={}, correct=1.0),),
    )
    (made,) = to_batch([scored], AlgorithmOptions()).samples
    start = len(played.segments[0].token_ids)
    assert list(made.allowed) == list(range(start, start + len("FETCH")))
    assert all(int(made.token_ids[at]) in ids for at, ids in made.allowed.items())


async def test_a_context_without_room_for_every_choice_is_full() -> None:
    game = Game(name="gate", kind=Gate, options=Gate.Options())
    players = scripted_players(ScriptedEngine(turns("FETCH")), game, max_tokens=7)
    played = await play_scripted(players, make_assignment())
    assert played.status is Status.TRUNCATED
    assert played.policy_texts == []


async def test_chat_endpoints_are_refused_with_a_remedy() -> None:
    game = Game(name="gate", kind=Gate, options=Gate.Options())
    remote = {"url": "http://127.0.0.1:1/v1", "api": "chat"}
    options = RolloutOptions.load({"engine": {"name": "remote", "remote": remote}}, where="test")
    players = replace(scripted_players(ScriptedEngine(turns("FETCH")), game), options=options)
    with pytest.raises(InputError, match=r"'gate'.*choices.*api=completions"):
        await play_scripted(players, make_assignment())


def test_a_demonstrated_choice_is_the_turn_that_would_have_been_drawn() -> None:
    question = make_question("qa")
    demonstration = Demonstration(
        question=question,
        retrieval=True,
        turns=(DemonstratedTurn(thought="FETCH"), DemonstratedTurn(thought="Paris")),
    )
    game = Game(name="gate", kind=Gate, options=Gate.Options())
    renderer = PromptRenderer(TOKENIZER, PROMPT)
    (segments,) = demonstrated(renderer, game, demonstration)
    assert [(s.text, len(s.allowed)) for s in segments if s.author is Author.POLICY] == [
        ("FETCH", 5),
        ("Paris<|end|>", 0),
    ]
    assert list(to_sample("one", segments).allowed) == [
        len(segments[0].token_ids) + place for place in range(5)
    ]
    other = replace(demonstration, turns=(DemonstratedTurn(thought="fetch"),))
    with pytest.raises(InputError, match="'fetch'"):
        demonstrated(renderer, game, other)


def test_hostile_turns_are_cut_to_choices() -> None:
    assert not check_environment(Gate).findings


def test_choices_that_are_the_same_are_found_before_the_run() -> None:
    class Unclear(Gate):
        choices = ("A", "A")

    assert any("different texts" in finding for finding in check_environment(Unclear).findings)
