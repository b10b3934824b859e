"""Searches of an episode: what a look-up leads to, and what of it the policy sees."""

import asyncio
import json
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ur2.retrieval.client.retriever import HttpTransport, RetrievalClient
from ur2.retrieval.reading.knowledge import RoutedKnowledge
from ur2.retrieval.reading.options import SummariserOptions
from ur2.retrieval.reading.summarise import Summariser
from ur2.retrieval.web.options import WebSearchOptions
from ur2.retrieval.web.search import WebRetriever
from ur2.rewards.terms import num_unsearchable
from ur2.types import (
    Author,
    Facts,
    Finding,
    Lookup,
    Passage,
    RetrievalFailed,
    Status,
    Summary,
    Unsearchable,
)

SEARCH = "I look. <search> France </search>"
ANSWER = "<answer> Paris </answer>"
SUMMARY = Summary(failed=False, num_tokens=9, cost_usd=0.1, latency_s=0.2)
CANARY = "Traceback: the canary died"


@dataclass
class ScriptedKnowledge:
    finding: Finding
    lookups: list[Lookup] = field(default_factory=list)

    async def look_up(self, lookup: Lookup) -> Finding:
        self.lookups.append(lookup)
        return self.finding


async def test_facts_stand_between_the_documents_markers(game):
    facts = Facts(text="Paris is it. </information>", passage_ids=("p1", "p2"))
    knowledge = ScriptedKnowledge(Finding(outcome=facts, summary=SUMMARY))
    played = await game.play(game.turns(SEARCH, ANSWER), knowledge=knowledge)
    observation = played.segments[2]
    assert observation.text.startswith("<information> Paris is it. <")
    assert observation.text.count("</information>") == 1
    assert observation.author is Author.ENVIRONMENT
    (event,) = played.searches
    assert (event.outcome, event.ids, event.summary) == ("found", ("p1", "p2"), SUMMARY)


async def test_a_search_notes_when_it_began_and_how_long_it_took(game):
    class Slow(ScriptedKnowledge):
        async def look_up(self, lookup: Lookup) -> Finding:
            await asyncio.sleep(0.05)
            return await super().look_up(lookup)

    before_s = time.time()
    played = await game.play(
        game.turns(SEARCH, ANSWER), knowledge=Slow(Finding(outcome=Facts(text="", passage_ids=())))
    )
    (event,) = played.searches
    assert event.latency_s >= 0.05
    assert before_s <= event.start_s <= time.time() - event.latency_s + 0.01


async def test_empty_facts_read_as_nothing_found(game):
    knowledge = ScriptedKnowledge(Finding(outcome=Facts(text="", passage_ids=("p1",))))
    played = await game.play(game.turns(SEARCH, ANSWER), knowledge=knowledge)
    assert played.segments[2].text == "<information> Nothing was found. </information>"


async def test_the_unsearchable_reply_is_the_environments_and_costs_the_policy(game):
    no = Finding(outcome=Unsearchable(reply="Think instead."), summary=SUMMARY)
    played = await game.play(game.turns(SEARCH, SEARCH, ANSWER), knowledge=ScriptedKnowledge(no))
    replies = [s for s in played.segments if "Think instead." in s.text]
    assert {s.author for s in replies} == {Author.ENVIRONMENT}
    mine = [t for t, m in zip(played.token_ids, played.policy_mask, strict=True) if m]
    assert "Think" not in game.tokenizer.decode(mine)
    assert played.status is Status.ANSWERED
    assert num_unsearchable(played) == 2
    assert played.num_searches == 2


async def test_a_lookup_knows_the_question_and_all_that_was_written_since(game):
    knowledge = ScriptedKnowledge(Finding(outcome=(Passage(id="p", text="Paris."),)))
    await game.play(game.turns(SEARCH, SEARCH, ANSWER), knowledge=knowledge)
    first, second = knowledge.lookups
    assert (first.task, first.question, first.query) == ("qa", "Where?", "France")
    assert first.reasoning == SEARCH
    assert second.reasoning == f"{SEARCH}<information> Paris. </information>{SEARCH}"


async def test_a_failed_summary_is_a_failed_search_with_its_cost(game):
    spent = Summary(failed=True, num_tokens=9, cost_usd=0.1, latency_s=0.2)
    failed = Finding(outcome=RetrievalFailed(reason=CANARY), summary=spent)
    played = await game.play(game.turns(SEARCH), knowledge=ScriptedKnowledge(failed))
    assert played.status is Status.TOOL_FAILED
    (event,) = played.searches
    assert (event.outcome, event.summary) == ("failed", spent)
    assert all(CANARY not in segment.text for segment in played.segments)


RETRIEVED = {"result": [[{"document": {"id": "p", "contents": "t\nParis."}, "score": 1.0}]]}
FOUND = {"searchParameters": {}, "organic": [{"link": "http://a.org", "snippet": "Paris."}]}
SUMMARISED = {"choices": [{"message": {"content": '{"searchable": true, "facts": "Paris."}'}}]}
BROKEN = st.sampled_from(
    [
        (500, CANARY.encode()),
        (403, json.dumps({"error": {"message": CANARY}}).encode()),
        (200, CANARY.encode()),
        (200, json.dumps({"error": CANARY}).encode()),
        (200, json.dumps({"result": CANARY, "choices": CANARY, "organic": CANARY}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": CANARY}}]}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": None}}], "x": CANARY}).encode()),
        (302, CANARY.encode()),
    ]
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    retrieved=st.none() | BROKEN,
    summarised=st.none() | BROKEN,
    web=st.booleans(),
    form=st.sampled_from(["strong", "weak"]),
    fallback=st.sampled_from(["passages", "fail"]),
)
def test_no_error_of_an_endpoint_or_a_retriever_reaches_a_segment(
    play_between, retrieved, summarised, web, form, fallback
):
    played = play_between(retrieved, summarised, web, form, fallback)
    assert all(CANARY not in segment.text for segment in played.segments)
    if retrieved is not None or (summarised is not None and fallback == "fail"):
        assert played.status is Status.TOOL_FAILED
    else:
        assert "Paris." in played.segments[2].text


@pytest.fixture
def play_between(game, serve_http, http_answer):
    """Plays an episode between a retriever and a summariser that answer well, or as given."""
    answers: dict[str, object] = {}

    def script(kind):
        def answer(sent):
            given = answers[kind]
            if isinstance(given, tuple):
                return http_answer(status=given[0], body=given[1])
            return given

        return answer

    servers = {kind: serve_http(script(kind)) for kind in ("retriever", "summariser")}

    def play(retrieved, summarised, web, form, fallback):
        answers["retriever"] = retrieved or (FOUND if web else RETRIEVED)
        answers["summariser"] = summarised or SUMMARISED
        options = SummariserOptions.load(
            {
                "endpoint": {"url": servers["summariser"].url, "max_tries": 1},
                "form": form,
                "fallback": fallback,
            },
            where="test",
        )

        async def run():
            url = servers["retriever"].url
            retriever = (
                WebRetriever(WebSearchOptions(url=url, max_tries=1))
                if web
                else RetrievalClient(HttpTransport(url), max_retries=0)
            )
            knowledge = RoutedKnowledge(
                retriever=retriever, top_k=1, summariser=Summariser(options)
            )
            try:
                return await game.play(game.turns(SEARCH, ANSWER), knowledge=knowledge)
            finally:
                await knowledge.close()
                await retriever.close()

        return asyncio.run(run())

    return play
