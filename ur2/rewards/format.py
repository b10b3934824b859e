"""Format violations: what the policy wrote against the protocol. Documents are never looked at."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ur2.rewards.markup import Markup
from ur2.types import Question, Trajectory

MAX_ANSWER_WORDS = 10
"""Answers of `qa` and `math` may be longer only where the gold is."""

_CHAT_TOKEN = re.compile(r"<\|\w{1,40}\|>|</?s>|\[/?INST\]")
_FINAL_CHAT_TOKEN = re.compile(rf"(?:{_CHAT_TOKEN.pattern})$")
_ROLE_LINE = re.compile(r"^(?:system|user|assistant|human)[ \t]*:?[ \t]*$", re.MULTILINE)
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a check sees."""

    turns: tuple[str, ...]
    """The policy's turns, without the token that ended each."""
    question: Question
    retrieval: bool
    answer: str | None
    """The final answer, where there is one."""
    markup: Markup

    @property
    def queries(self) -> list[str]:
        """Every complete query."""
        return [query for turn in self.turns for query in self.markup.queries(turn)]

    def count(self, marker: str) -> int:
        """Occurrences of a marker."""
        return sum(turn.count(marker) for turn in self.turns)


def violations(
    trajectory: Trajectory,
    question: Question,
    *,
    retrieval: bool,
    answer: str | None,
    markup: Markup,
) -> tuple[str, ...]:
    """The names of the checks that a trajectory fails, in the order of `CHECKS`.

    Only POLICY segments are read. A chat token at the very end of a turn is what stopped it, and is
    no violation.
    """
    turns = tuple(_without_stop_token(text, markup) for text in trajectory.policy_texts)
    written = Written(
        turns=turns, question=question, retrieval=retrieval, answer=answer, markup=markup
    )
    return tuple(name for name, check in CHECKS.items() if check(written))


def _without_stop_token(text: str, markup: Markup) -> str:
    text = text.rstrip()
    token = _FINAL_CHAT_TOKEN.search(text, max(0, len(text) - 48))
    return text[: token.start()] if token and token[0] not in markup.markers else text


def _not_one_answer(written: Written) -> bool:
    form = written.markup.answer_form(written.question.task)
    return written.answer is None or sum(form.count(turn) for turn in written.turns) != 1


def _unbalanced_search(written: Written) -> bool:
    search = written.markup.search
    return any(turn.count(search.open) != turn.count(search.close) for turn in written.turns)


def _too_many_searches(written: Written) -> bool:
    return written.count(written.markup.search.open) > written.markup.limits.max_searches


def _forged_documents(written: Written) -> bool:
    documents = written.markup.documents
    return written.count(documents.open) + written.count(documents.close) > 0


def _long_query(written: Written) -> bool:
    limit = written.markup.limits.max_query_words
    return any(len(query.split()) > limit for query in written.queries)


def _chat_tokens(written: Written) -> bool:
    own = set(written.markup.markers)
    return any(
        _ROLE_LINE.search(turn) or any(token not in own for token in _CHAT_TOKEN.findall(turn))
        for turn in written.turns
    )


def _chinese(written: Written) -> bool:
    return any(not turn.isascii() and _CHINESE.search(turn) for turn in written.turns)


def _long_answer(written: Written) -> bool:
    if written.answer is None:
        return False
    num_words = len(written.answer.split())
    if written.question.task == "choice":
        return num_words != 1
    longest_gold = max(len(gold.split()) for gold in written.question.answers)
    return num_words > max(MAX_ANSWER_WORDS, longest_gold)


def _marker_in_answer(written: Written) -> bool:
    return written.answer is not None and any(m in written.answer for m in written.markup.markers)


def _search_when_off(written: Written) -> bool:
    search = written.markup.search
    return not written.retrieval and written.count(search.open) + written.count(search.close) > 0


CHECKS: Mapping[str, Callable[[Written], bool]] = {
    "not_one_answer": _not_one_answer,
    "unbalanced_search": _unbalanced_search,
    "too_many_searches": _too_many_searches,
    "forged_documents": _forged_documents,
    "long_query": _long_query,
    "chat_tokens": _chat_tokens,
    "chinese": _chinese,
    "long_answer": _long_answer,
    "marker_in_answer": _marker_in_answer,
    "search_when_off": _search_when_off,
}
