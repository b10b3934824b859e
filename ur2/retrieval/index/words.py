"""From a text to terms: the rule by which lexical indexes are made and searched.

    text -> NFKC, lower case -> words; runs of Chinese, Japanese and Korean as pairs of characters
         -> stems; stop words stay as they are, with a mark

Single characters are words (vitamin K, X). Stop words are indexed, so that `It` and `The Who` can
be found, but they count in no length, and a query drops them where anything else is in it.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

RULE: Final = 2
"""Raised whenever the same text would become other terms; an index keeps the one it was made by."""
Language = Literal[
    "none", "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish",
    "french", "german", "greek", "hindi", "hungarian", "indonesian", "irish", "italian",
    "lithuanian", "nepali", "norwegian", "portuguese", "romanian", "russian", "serbian", "spanish",
    "swedish", "tamil", "turkish", "yiddish",
]  # fmt: skip
"""Languages of Snowball's stemmers; `none` neither stems nor stops."""
STOP_MARK = "\u0001"
"""Ends a stop word's term, which is no stem."""

_STOP_LISTS = {
    "danish": "DANISH", "dutch": "DUTCH", "english": "EN", "french": "FRENCH", "german": "GERMAN",
    "italian": "ITALIAN", "norwegian": "NORWEGIAN", "portuguese": "PORTUGUESE",
    "russian": "RUSSIAN", "spanish": "SPANISH", "swedish": "SWEDISH", "turkish": "TURKISH",
}  # fmt: skip
"""By language, the end of the name of bm25s's list."""
_ENGLISH_ENDINGS = ("s", "t")
"""What is left of `it's` and `don't`."""
_WORD = re.compile(r"\w+")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_IS_CJK = re.compile(f"[{_CJK}]")
_RUNS = re.compile(f"[{_CJK}]+|[^{_CJK}]+")


class Terms:
    """The terms of texts in one language; each thread needs one of its own."""

    def __init__(self, language: Language) -> None:
        self._stem = _stemmer(language)
        self._stop_words = stop_words(language)
        self._of_word: dict[str, str] = {}

    def of(self, text: str) -> list[str]:
        """The terms of a text, in order."""
        known = self._of_word
        found = []
        for word in words(text):
            if (term := known.get(word)) is None:
                is_stop = word in self._stop_words
                term = known[word] = word + STOP_MARK if is_stop else self._stem(word)
            found.append(term)
        return found

    def of_query(self, query: str) -> list[str]:
        """The terms to search with: without stop words, unless nothing else is there."""
        terms = self.of(query)
        return [term for term in terms if not term.endswith(STOP_MARK)] or terms


def words(text: str) -> Iterator[str]:
    """The words of a text in lower case."""
    if text.isascii():
        yield from _WORD.findall(text.lower())
        return
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word.isascii():
            yield word
            continue
        for run in _RUNS.findall(word):
            if len(run) > 1 and _IS_CJK.match(run):
                yield from (run[place : place + 2] for place in range(len(run) - 1))
            else:
                yield run


@functools.cache
def stop_words(language: Language) -> frozenset[str]:
    """The stop words of a language; empty where no list is known."""
    import bm25s.stopwords

    name = _STOP_LISTS.get(language)
    if name is None:
        return frozenset()
    listed = frozenset(getattr(bm25s.stopwords, f"STOPWORDS_{name}"))
    return listed.union(_ENGLISH_ENDINGS) if language == "english" else listed


def _stemmer(language: Language) -> Callable[[str], Any]:
    if language == "none":
        return str
    import Stemmer

    return Stemmer.Stemmer(language).stemWord  # type: ignore[no-any-return]
