import re

import pytest

from ur2.prompts.dialect import Dialect
from ur2.prompts.render import PromptRenderer
from ur2.types import Level, Question

MARKER_LIKE = re.compile(r"</?[a-z_]+>|<\|[a-z_]+\|>|\\boxed\{")
TASKS = ("choice", "qa", "math")
CHAT = {"<s>", "<|user|>", "<|assistant|>", "<|end|>"}


def cases(options):
    """(task, search mode?) of every template."""
    return [(task, mode) for task in options.templates for mode in (True, False)]


def render(tokenizer, options, task, retrieval) -> str:
    question = Question(
        id="1",
        task=task,
        text="Why is it so?",
        answers=("A",),
        level=Level.HARD,
        options=("Rome", "Paris", "Bern") if task == "choice" else (),
    )
    renderer = PromptRenderer(tokenizer, options)
    return renderer.opening(renderer.wording.message(question, retrieval)).text


def test_every_template_shows_exactly_the_markers_of_its_mode(shipped, tokenizer):
    dialect = Dialect(shipped.protocol)
    for task, retrieval in cases(shipped):
        text = render(tokenizer, shipped, task, retrieval)
        answer = dialect.answer_form(task)
        required = {answer.open, answer.close} - {""}
        if retrieval:
            required |= {dialect.search.open, dialect.search.close}
        allowed = set(required)
        if retrieval:
            allowed |= {dialect.documents.open, dialect.documents.close}
        assert all(marker in text for marker in required), (task, retrieval)
        shown = set(MARKER_LIKE.findall(text)) - CHAT
        assert shown <= allowed, (task, retrieval)
        foreign = {m for m in dialect.markers if m in text} - allowed
        assert not foreign, (task, retrieval)


def test_prompts_without_retrieval_do_not_mention_searching(shipped, tokenizer):
    for task in shipped.templates:
        text = render(tokenizer, shipped, task, retrieval=False).lower()
        assert not re.search("search|retriev|quer(y|ies)|document|look up", text), task


def test_every_prompt_shows_the_question_and_all_options(shipped, tokenizer):
    for task, retrieval in cases(shipped):
        text = render(tokenizer, shipped, task, retrieval)
        assert "Why is it so?" in text
        if task == "choice":
            assert re.search(r"A\. Rome\nB\. Paris\nC\. Bern", text)


def test_what_a_prompt_asks_for_is_what_is_parsed(shipped):
    dialect = Dialect(shipped.protocol)
    for task in shipped.templates:
        turn = dialect.render_turn("I think.", answer="B", task=task)
        assert dialect.answer(turn, task) == "B"
        assert dialect.answer_form(task).count(turn) == 1
        assert dialect.queries(dialect.render_turn("", search="who")) == ["who"]


@pytest.mark.parametrize("task", TASKS)
def test_ur2_and_search_r1_serve_every_task(task):
    from pathlib import Path

    import yaml

    for name in ("ur2", "search_r1"):
        path = Path(__file__).parents[3] / "configs" / "prompt" / f"{name}.yaml"
        assert task in yaml.safe_load(path.read_text())["templates"]


def test_ur2_limits_are_those_of_the_paper(ur2):
    assert (ur2.protocol.max_searches, ur2.protocol.max_query_words) == (4, 20)
