"""Finds training questions that also stand in held-out sets, exactly or nearly.

Two questions match exactly when their words (letters and digits) and those of their options, in any
order, are the same: case, spacing, punctuation and operators do not count, which errs on the side
of dropping a question. They match nearly when the Jaccard similarity of their word n-grams reaches
a threshold *and* they share a gold; the gold keeps apart the questions of one template.

Near matches are found by an exact join with prefix filtering (Chaudhuri et al. 2006; Bayardo et
al. 2007): two sets of similarity t or more share one of each set's |x| - ceil(t|x|) + 1 rarest
elements, so that only few pairs are compared and none is missed.
"""

import logging
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from string import ascii_uppercase

from ur2.errors import InputError
from ur2.types import Question

NGRAM = 3
"""Words per n-gram; a shorter text is one n-gram."""

DEFAULT_THRESHOLD = 0.8
"""Jaccard similarity from which two questions with one gold count as the same. Below it the pairs
of MATH are variations of one exercise, with other numbers."""

_LOG = logging.getLogger(__name__)

_WORD = re.compile(r"[^\W_]+")

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A training question and the held-out question that is most like it."""

    train: Question
    held_out: Question
    similarity: float
    """Jaccard similarity of their n-grams; 1 where they match exactly."""
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """The questions that two sets share; at most one match per training question."""

    matches: tuple[Match, ...]
    """In the order of the training questions."""
    num_train: int
    num_distinct_train: int
    """Training questions that differ in their normal form."""
    num_held_out: int

    @property
    def num_exact(self) -> int:
        """Training questions with an exact match."""
        return sum(match.exact for match in self.matches)

    @property
    def num_distinct_exact(self) -> int:
        """Training questions with an exact match, counting repeated ones once."""
        return len({normal_form(match.train) for match in self.matches if match.exact})

    @property
    def num_near(self) -> int:
        """Training questions with only a near match."""
        return len(self.matches) - self.num_exact

    @property
    def train_ids(self) -> frozenset[str]:
        """The training questions that match."""
        return frozenset(match.train.id for match in self.matches)

    def clean(self, train: Sequence[Question]) -> list[Question]:
        """`train` without the questions that match."""
        matched = self.train_ids
        return [question for question in train if question.id not in matched]


def find_overlap(
    train: Sequence[Question],
    held_out: Sequence[Question],
    *,
    threshold: float = DEFAULT_THRESHOLD,
) -> Overlap:
    """Finds the training questions that are held-out questions.

    Args:
        train: questions to learn from; ids are unique.
        held_out: questions to be measured on, of any number of sets.
        threshold: least similarity of near matches, in (0, 1].
    """
    by_form: dict[str, Question] = {}
    for question in held_out:
        by_form.setdefault(normal_form(question), question)
    forms = {question.id: normal_form(question) for question in train}
    rest = [question for question in train if forms[question.id] not in by_form]
    found = {match.train.id: match for match in _near_matches(rest, held_out, threshold)}
    for question in train:
        twin = by_form.get(forms[question.id])
        if twin is not None:
            found[question.id] = Match(train=question, held_out=twin, similarity=1.0, exact=True)
    return Overlap(
        matches=tuple(found[question.id] for question in train if question.id in found),
        num_train=len(train),
        num_distinct_train=len(set(forms.values())),
        num_held_out=len(held_out),
    )


def without_overlap(train: list[Question], held_out: Sequence[Question]) -> list[Question]:
    """`train` without the questions that match held-out ones, with a note in the log.

    Raises:
        InputError: nothing is held out, or nothing would be left.
    """
    if not held_out:
        raise InputError("dataset.exclude_overlap needs held-out questions; set dataset.eval")
    overlap = find_overlap(train, held_out)
    left = overlap.clean(train)
    _LOG.info(
        "left out %d of %d training questions that are held-out ones (%d exactly, %d nearly)",
        len(overlap.matches),
        len(train),
        overlap.num_exact,
        overlap.num_near,
    )
    if not left:
        raise InputError("every training question is held out; give other files")
    return left


def normal_form(question: Question) -> str:
    """The common form of equal questions: the words of the text, and of each option, sorted."""
    return "\n".join([_normal(question.text), *sorted(map(_normal, question.options))])


def _normal(text: str) -> str:
    """The words; where a text has none, the text without spacing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or "".join(folded.split())


def _shingles(question: Question) -> Shingles:
    words = normal_form(question).split()
    return frozenset(tuple(words[at : at + NGRAM]) for at in range(max(len(words) - NGRAM, 0) + 1))


def _golds(question: Question) -> frozenset[str]:
    """Golds without case and spacing; for `choice` the texts of the right options."""
    golds = question.answers
    if question.task == "choice":
        golds = tuple(question.options[ascii_uppercase.index(letter)] for letter in golds)
    return frozenset("".join(gold.casefold().split()) for gold in golds)


def _near_matches(
    train: Sequence[Question], held_out: Sequence[Question], threshold: float
) -> Iterator[Match]:
    """The best match of each training question that has one.

    Rarity is counted among the held-out questions alone: any fixed order of elements serves the
    join, and the training set, often far larger, need not be held in memory.
    """
    held_sets = [_shingles(question) for question in held_out]
    frequency = Counter(chain.from_iterable(held_sets))
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, one in enumerate(held_sets):
        for element in _prefix(one, frequency, threshold):
            index[element].append(position)
    golds = [_golds(question) for question in held_out]
    for question in train:
        one, own = _shingles(question), _golds(question)
        near = chain.from_iterable(index.get(e, ()) for e in _prefix(one, frequency, threshold))
        scored = [(_jaccard(one, held_sets[p]), -p) for p in set(near) if own & golds[p]]
        similarity, position = max(scored, default=(0.0, 0))
        if similarity >= threshold:
            twin = held_out[-position]
            yield Match(train=question, held_out=twin, similarity=similarity, exact=False)


def _prefix(
    one: Shingles, frequency: Mapping[tuple[str, ...], int], threshold: float
) -> list[tuple[str, ...]]:
    """The rarest elements, of which similar sets share at least one."""
    # Products that should be whole may come out a little above, e.g. 0.56 * 25.
    length = len(one) - math.ceil(threshold * len(one) - 1e-9) + 1
    return sorted(one, key=lambda element: (frequency[element], element))[:length]


def _jaccard(one: Shingles, other: Shingles) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
