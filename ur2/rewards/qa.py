r"""Graders of open questions with several golds, as in SQuAD (Rajpurkar et al. 2016).

Before any rule a text is read: LaTeX commands and delimiters, compatibility forms (NFKC), dashes,
quotes and invisible characters, so that `\text{New York}\ \text{City}` is New York City and an en
dash in 1943-1992 is a hyphen.
"""

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

Normalise = Literal["squad", "spaces"]
"""Punctuation marks are deleted (SQuAD, HotpotQA, Search-R1), or become spaces (UR²)."""

_DELETED = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")

_COMMAND = re.compile(r"\\[a-zA-Z]+\s*\{([^{}]*)\}|\\[()\[\]]|\\(?=[^a-zA-Z])|\\[a-zA-Z]+\s*")
_DELIMITED = re.compile(r"\$([^$]+)\$")
_LOOKS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u00ad\ufe58\ufe63", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\ufeff\u200b\u200c\u200d\u2060\u200e\u200f", None),
    }
)
_MEANT = re.compile(r"(?<=\d)\.(?=\d)|(?<![\w.])-(?=\.?\d)|(?<=\w)[+#]+(?!\w)")
_KEPT = {".": "\ue000", "-": "\ue001", "+": "\ue002", "#": "\ue003"}
_KEEP = str.maketrans(_KEPT)
_RESTORE = str.maketrans({private: mark for mark, private in _KEPT.items()})


@functools.lru_cache(maxsize=2048)  # the samples of a question share their golds
def normalised(text: str, rule: Normalise = "squad", keep_marks: bool = False) -> str:
    """Lower case, without ASCII punctuation and articles, single spaces.

    A text that consists of nothing else keeps its articles, or its punctuation, so that "The The"
    and "%" stay answers (a departure from SQuAD, where they equal every empty prediction).

    Args:
        text: an answer or a gold.
        rule: the fate of punctuation.
        keep_marks: keep marks that bear a meaning: 3.5 is not 35, -5 not 5, C++ not C.
    """
    if not text.isascii() or "\\" in text or "$" in text:
        text = read(text)
    lower = " ".join(text.lower().split())
    if keep_marks:
        lower = _MEANT.sub(lambda marks: marks[0].translate(_KEEP), lower)
    words = " ".join(lower.translate(_DELETED if rule == "squad" else _SPACED).split())
    found = " ".join(_ARTICLES.sub(" ", words).split()) or words or lower
    return found.translate(_RESTORE) if keep_marks else found


def read(text: str) -> str:
    r"""The characters that a text stands for: `\emph{Hamlet}` is Hamlet, `7\text{ million}` too."""
    while (plain := _DELIMITED.sub(r"\1", _COMMAND.sub(_content, text))) != text:
        text = plain
    return unicodedata.normalize("NFKC", text.translate(_LOOKS)).translate(_LOOKS)


def _content(command: re.Match[str]) -> str:
    """The text inside a command; a space stands for one that encloses nothing."""
    if command[1] is not None:
        return command[1]
    return "" if command[0] == "\\" else " "


def exact_match(
    prediction: str,
    golds: Sequence[str],
    *,
    normalise: Normalise = "squad",
    keep_marks: bool = False,
) -> float:
    """1.0 where the normalised prediction equals a normalised gold, else 0.0."""
    return _best(lambda s, g: float(s == g), prediction, golds, normalise, keep_marks)


def cover_exact_match(
    prediction: str,
    golds: Sequence[str],
    *,
    normalise: Normalise = "squad",
    keep_marks: bool = False,
) -> float:
    """1.0 where a gold's words occur in the prediction, in order and whole ("no" not in "know")."""
    return _best(lambda s, g: float(f" {g} " in f" {s} "), prediction, golds, normalise, keep_marks)


def f1(
    prediction: str,
    golds: Sequence[str],
    *,
    normalise: Normalise = "squad",
    keep_marks: bool = False,
) -> float:
    """2PR / (P + R) of the words shared with a gold, counted with multiplicity; the best gold's."""
    return _best(_word_f1, prediction, golds, normalise, keep_marks)


def _word_f1(said: str, gold: str) -> float:
    said_words, gold_words = said.split(), gold.split()
    unmatched = gold_words.copy()  # a Counter costs several times as much on a few words
    for word in said_words:
        if word in unmatched:
            unmatched.remove(word)
    num_shared = len(gold_words) - len(unmatched)
    return 2 * num_shared / (len(said_words) + len(gold_words))


def _best(
    score: Callable[[str, str], float],
    prediction: str,
    golds: Sequence[str],
    rule: Normalise,
    keep_marks: bool,
) -> float:
    """The highest score over golds; an empty prediction or gold scores 0."""
    golds = (golds,) if isinstance(golds, str) else golds
    said = normalised(prediction, rule, keep_marks)
    if not said:
        return 0.0
    wanted = (normalised(gold, rule, keep_marks) for gold in golds)
    return max([score(said, gold) for gold in wanted if gold], default=0.0)
