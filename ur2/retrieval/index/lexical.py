"""Words to passages: BM25 as bm25s keeps it, made without holding the corpus in memory.

    texts -> stems -> per chunk (term, passage, count) on disk -> columns of scores by term

Shapes: _N passages, _Q queries, _K results per query, _E entries: a term in a passage.
"""

import json
import os
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.index.fusion import NO_ROW, Rows
from ur2.retrieval.index.words import STOP_MARK, Language, Terms, stop_words
from ur2.retrieval.manifest import LexicalSpec

VERSION: str = bm25s.__version__
DATA_FILE, ROWS_FILE, STARTS_FILE = (
    f"{name}.csc.index.npy" for name in ("data", "indices", "indptr")
)
"""bm25s's own names: per term a column of scores, the passages they are of, where it starts."""
VOCABULARY_FILE = "vocab.index.json"
PARAMETERS_FILE = "params.index.json"
TEXTS_PER_ROUND = 20_000
"""Texts whose words are counted at once while an index is made."""

Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work proceeds."""


class LexicalIndex:
    """Scores of every term in every passage, memory-mapped; the vocabulary is in memory."""

    def __init__(self, folder: Path, language: Language = "english") -> None:
        """Opens what `build_lexical` made in a language.

        Raises:
            InputError: it is missing or damaged.
        """
        self._language = language
        try:
            self._bm25 = bm25s.BM25.load(folder, mmap=True)
            # Plain views of the maps: slices of numpy's own class for maps are slower.
            self._bm25.scores |= {
                name: np.asarray(self._bm25.scores[name]) for name in ("data", "indices", "indptr")
            }
            self._check(self._bm25.scores)
        except (
            *(OSError, EOFError, ValueError, KeyError, TypeError),
            tokenize.TokenError,  # numpy, of a header
        ) as error:
            raise InputError(f"{folder} is missing or damaged; build the index again") from error

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])

    def search(self, queries: Sequence[str], k: int) -> tuple[NDArray[np.float32], Rows]:
        """The passages with the largest scores, best first; of equal ones the earlier.

        Returns:
            Scores (Q, K) and rows (Q, K), K = min(k, N); score 0 and `NO_ROW` where fewer
            passages have a word of the query.
        """
        k = min(k, len(self))
        score_QK = np.zeros((len(queries), k), dtype=np.float32)
        row_QK = np.full((len(queries), k), NO_ROW, dtype=np.int64)
        reader = Terms(self._language)
        for number, query in enumerate(queries):
            terms = self._bm25.get_tokens_ids(reader.of_query(query))
            if not terms:
                continue
            score_N = self._bm25.get_scores_from_ids(terms)
            rows = _largest(score_N, k)
            score_QK[number, : len(rows)] = score_N[rows]
            row_QK[number, : len(rows)] = rows
        return score_QK, row_QK

    def _check(self, scores: dict[str, Any]) -> None:
        num_entries = int(scores["indptr"][-1])
        if not num_entries == len(scores["data"]) == len(scores["indices"]):
            raise ValueError("columns of different lengths")


def build_lexical(
    spec: LexicalSpec,
    texts: Iterable[str],
    num_texts: int,
    folder: Path,
    *,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Writes an index of words over N `texts`, which are read once, to a new folder.

    score(t, p) = ln(1 + (N - n_t + ½) / (n_t + ½)) · f / (f + k1 (1 - b + b |p| / mean |p|)),
    f the count of term t in passage p, n_t the number of passages with t: Robertson's BM25 as
    Lucene computes it (Kamphuis et al. 2020).
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        counted = _Counts(Path(scratch), spec.language)
        for batch in _batches(texts):
            counted.add(batch)
            progress("counting words", counted.num_texts, num_texts)
        counted.write_scores(spec, folder, progress)
    (folder / VOCABULARY_FILE).write_text(
        json.dumps(counted.terms, ensure_ascii=False), encoding="utf-8"
    )
    parameters = {"k1": spec.k1, "b": spec.b, "method": "lucene", "num_docs": counted.num_texts}
    (folder / PARAMETERS_FILE).write_text(json.dumps(parameters, indent=2), encoding="utf-8")


class _Counts:
    """How often each term is in each text, kept on disk batch by batch."""

    def __init__(self, scratch: Path, language: Language) -> None:
        self._scratch = scratch
        self._language = language
        self._terms = Terms(language)
        self.terms: dict[str, int] = {}
        """Term -> its number."""
        self._length_batches: list[NDArray[np.int32]] = []
        self.num_texts = 0

    def add(self, texts: Sequence[str]) -> None:
        term_lists = [self._terms.of(text) for text in texts]
        sizes = np.array([len(terms) for terms in term_lists], dtype=np.int64)
        text_of = np.repeat(np.arange(len(texts), dtype=np.int64), sizes)
        numbers = (self.terms.setdefault(t, len(self.terms)) for ts in term_lists for t in ts)
        term_of = np.fromiter(numbers, np.int64, count=len(text_of))
        counts_in_length = ~np.isin(term_of, self._stop_numbers())
        lengths = np.bincount(text_of[counts_in_length], minlength=len(texts)).astype(np.int32)
        entries, counts = np.unique(term_of * len(texts) + text_of, return_counts=True)
        term_E, text_E = np.divmod(entries, len(texts))
        columns = (term_E, text_E + self.num_texts, counts)
        np.save(self._batch(len(self._length_batches)), np.stack(columns).astype(np.int32))
        self._length_batches.append(lengths)
        self.num_texts += len(texts)

    def _stop_numbers(self) -> list[int]:
        marked = (word + STOP_MARK for word in stop_words(self._language))
        return [self.terms[term] for term in marked if term in self.terms]

    def write_scores(self, spec: LexicalSpec, folder: Path, progress: Progress) -> None:
        length_N = np.concatenate(self._length_batches).astype(np.float32)
        norm_N = spec.k1 * (1 - spec.b + spec.b * length_N / max(length_N.mean(), 1))
        num_texts_of_term = np.zeros(len(self.terms), dtype=np.int64)
        for term_E, _, _ in self._batches():
            num_texts_of_term += np.bincount(term_E, minlength=len(self.terms))
        rare = (self.num_texts - num_texts_of_term + 0.5) / (num_texts_of_term + 0.5)
        idf = np.log1p(rare).astype(np.float32)
        starts = np.concatenate(([0], np.cumsum(num_texts_of_term)))
        np.save(folder / STARTS_FILE, starts)
        data = _create(folder / DATA_FILE, np.float32, int(starts[-1]))
        rows = _create(folder / ROWS_FILE, np.int32, int(starts[-1]))
        next_of_term = starts[:-1].copy()
        for number, (term_E, text_E, count_E) in enumerate(self._batches()):
            terms, firsts, counts = np.unique(term_E, return_index=True, return_counts=True)
            place_E = np.arange(len(term_E)) + np.repeat(next_of_term[terms] - firsts, counts)
            data[place_E] = idf[term_E] * count_E / (count_E + norm_N[text_E])
            rows[place_E] = text_E
            next_of_term[terms] += counts
            progress("scoring words", number + 1, len(self._length_batches))
        data.flush()
        rows.flush()

    def _batch(self, number: int) -> Path:
        return self._scratch / f"{number:06d}.npy"

    def _batches(self) -> Iterator[NDArray[np.int32]]:
        """Per batch (terms, texts, counts), (3, E), in order of terms, then texts."""
        return (np.load(self._batch(number)) for number in range(len(self._length_batches)))


def _create(path: Path, dtype: type[np.generic], length: int) -> Any:
    """A `.npy` file of zeros, mapped for writing; a disk that is too full is found here.

    Without room for a page that is written later the kernel would kill the process.
    """
    zeros = open_memmap(path, mode="w+", dtype=dtype, shape=(length,))  # type: ignore[no-untyped-call]
    if hasattr(os, "posix_fallocate"):  # not on a Mac
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return zeros


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, TEXTS_PER_ROUND)):
        yield batch


def _largest(score_N: NDArray[np.float32], k: int) -> Rows:
    rows = np.flatnonzero(score_N)
    if len(rows) > k:
        least = np.partition(score_N[rows], -k)[-k]
        rows = rows[score_N[rows] >= least]
    best: Rows = rows[np.lexsort((rows, -score_N[rows]))][:k]
    return best
