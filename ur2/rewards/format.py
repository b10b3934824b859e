"""Format violations: what the policy wrote against the dialect. Documents are never looked at."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ur2.rewards.markup import Markup
from ur2.types import Question, Trajectory

MAX_ANSWER_WORDS = 10
"""Answers of `qa` and `math` may be longer only where the gold is."""

# Each of these begins with a literal, for which the scan skips fast.
_TOKENS = (re.compile(r"<(?:\|\w{1,40}\||/?s)>"), re.compile(r"\[/?INST\]"))
_FINAL_CHAT_TOKEN = re.compile(r"(?:<\|\w{1,40}\|>|</?s>|\[/?INST\])$")
_ROLE_LINE = re.compile(r"\n(?:system|user|assistant|human)[ \t]*:?[ \t]*(?=\n|$)")
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_CHINESE_LEAD_BYTES = bytes([*range(0xE3, 0xEA), 0xEF, 0xF0])
"""Lead bytes in UTF-8; a text without them needs no scan by the pattern, which is slower."""


@dataclass(slots=True, kw_only=True)
class Written:
    """The text and facts that a check sees."""

    turns: tuple[str, ...]
    """The policy's turns, without the token that ended each."""
    text: str
    """The turns, each on lines of its own and after a line break; no marker crosses a line."""
    opened: tuple[int, ...]
    """How often each turn opens a search."""
    closed: tuple[int, ...]
    """How often each turn closes one."""
    question: Question
    retrieval: bool
    answer: str | None
    """The final answer, where there is one."""
    num_searches: int
    """Searches that reached the retriever."""
    min_searches: float
    markup: Markup
    as_published: bool


def violations(
    trajectory: Trajectory,
    question: Question,
    *,
    retrieval: bool,
    answer: str | None,
    markup: Markup,
    min_searches: float = 0.0,
    as_published: bool = False,
) -> tuple[str, ...]:
    """The names of the checks that a trajectory fails, in the order of `CHECKS`.

    A name comes once per violation: each query that is too long is one, the other checks fail once.
    Only POLICY segments are read. A chat token at the very end of a turn is what stopped it, and is
    no violation. `as_published` is that of `RewardOptions`.
    """
    turns = tuple([_without_stop_token(text, markup) for text in trajectory.policy_texts])
    opening, closing = markup.search.open, markup.search.close
    written = Written(
        turns=turns,
        text="\n" + "\n".join(turns),
        opened=tuple([turn.count(opening) for turn in turns]),
        closed=tuple([turn.count(closing) for turn in turns]),
        question=question,
        retrieval=retrieval,
        answer=answer,
        num_searches=trajectory.num_searches,
        min_searches=min_searches,
        markup=markup,
        as_published=as_published,
    )
    found: list[str] = []
    for name, check in CHECKS.items():
        if count := check(written):
            found += [name] * count
    return tuple(found)


def _without_stop_token(text: str, markup: Markup) -> str:
    text = text.rstrip()
    if not text.endswith((">", "]")) or text.endswith(markup.markers):
        return text
    token = _FINAL_CHAT_TOKEN.search(text, max(0, len(text) - 48))
    return text[: token.start()] if token else text


def _not_one_answer(written: Written) -> bool:
    form = written.markup.answer_form(written.question.task)
    is_empty = written.answer is None and not (
        written.as_published and written.question.task in ("qa", "math")
    )
    return is_empty or sum(map(form.count, written.turns)) != 1


def _unbalanced_search(written: Written) -> bool:
    return written.opened != written.closed


def _too_many_searches(written: Written) -> bool:
    return sum(written.opened) > written.markup.limits.max_searches


def _forged_documents(written: Written) -> bool:
    documents = written.markup.documents
    return documents.open in written.text or documents.close in written.text


def _long_query(written: Written) -> int:
    limit = written.markup.limits.max_query_words
    num_long = 0
    for turn, closed in zip(written.turns, written.closed, strict=True):
        for query in written.markup.queries(turn) if closed else ():
            num_long += len(query) > 2 * limit and len(query.split()) > limit
    return num_long


def _chat_tokens(written: Written) -> bool:
    """Whether a role, or a chat token that is no marker of the dialect, stands in the text."""
    if _ROLE_LINE.search(written.text):
        return True
    tokens = {token for form in _TOKENS for token in form.findall(written.text)}
    return not tokens.issubset(written.markup.markers)


def _chinese(written: Written) -> bool:
    if written.text.isascii():
        return False
    bytes_ = written.text.encode(errors="replace")
    may_be = len(bytes_.translate(None, _CHINESE_LEAD_BYTES)) < len(bytes_)
    return may_be and _CHINESE.search(written.text) is not None


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
    return not (written.retrieval or written.as_published) and (
        any(written.opened) or any(written.closed)
    )


def _too_few_searches(written: Written) -> bool:
    return written.retrieval and written.num_searches < written.min_searches


CHECKS: Mapping[str, Callable[[Written], int]] = {
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
    "too_few_searches": _too_few_searches,
}
