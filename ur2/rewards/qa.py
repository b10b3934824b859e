"""Graders of open questions with several golds, as in SQuAD (Rajpurkar et al. 2016)."""

import functools
import re
import string
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@functools.lru_cache(maxsize=2048)  # the samples of a question share their golds
def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, single spaces.

    A text that consists of nothing else keeps its articles, or its punctuation, so that "The The"
    and "%" stay answers (a departure from SQuAD, where they equal every empty prediction).
    """
    lower = " ".join(text.lower().split())
    words = " ".join(lower.translate(_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words or lower


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 where the normalised prediction equals a normalised gold, else 0.0."""
    return _best(lambda said, gold: float(said == gold), prediction, golds)


def cover_exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 where a gold's words occur in the prediction, in order and whole ("no" not in "know")."""
    return _best(lambda said, gold: float(f" {gold} " in f" {said} "), prediction, golds)


def f1(prediction: str, golds: Sequence[str]) -> float:
    """2PR / (P + R) of the words shared with a gold, counted with multiplicity; the best gold's."""
    return _best(_word_f1, prediction, golds)


def _word_f1(said: str, gold: str) -> float:
    said_words, gold_words = said.split(), gold.split()
    unmatched = gold_words.copy()  # a Counter costs several times as much on a few words
    for word in said_words:
        if word in unmatched:
            unmatched.remove(word)
    num_shared = len(gold_words) - len(unmatched)
    return 2 * num_shared / (len(said_words) + len(gold_words))


def _best(score: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    """The highest score over golds; an empty prediction or gold scores 0."""
    golds = (golds,) if isinstance(golds, str) else golds
    said = normalise(prediction)
    if not said:
        return 0.0
    return max([score(said, gold) for gold in map(normalise, golds) if gold], default=0.0)
