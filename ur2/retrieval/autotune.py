"""`python -m ur2.retrieval.autotune index=DIR queries=FILE`: as narrow a search as recall allows.

    queries -> vectors -> exact rows ─┐
                       -> rows found at breadth 1, 2, 4 … ─> recall per breadth -> the smallest
                                                             that suffices -> manifest

Recall at k is the share of a query's k nearest passages that the index finds. What is nearest is
measured with the vectors as they were encoded, where those are at hand; else with the vectors as
the index keeps them, which says nothing of what its quantiser loses.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table

from ur2.errors import InputError, run_entry
from ur2.options import parse_command_line
from ur2.retrieval.encoder.sentence_encoder import Encoder, SentenceTransformerEncoder, num_threads
from ur2.retrieval.encoder.shards import LoadEncoder
from ur2.retrieval.encoder.vectors import VectorFolder
from ur2.retrieval.index.nearest import VectorIndex, VectorSource, exact_search
from ur2.retrieval.index.recall_curve import Point, choose, ladder, measure_of, plot
from ur2.retrieval.manifest import StoreManifest, Tuning, load_manifest
from ur2.retrieval.options import BuildOptions, EncoderOptions
from ur2.retrieval.partial import writing
from ur2.retrieval.service.store import PassageStore

PROG = "python -m ur2.retrieval.autotune"
CURVE_FILE = "autotune.png"
FROM_CORPUS = "corpus"
QUERY_KEYS = ("query", "question", "text")
SENTENCE = re.compile(r".+?[.!?](?=\s|$)|.+", re.DOTALL)


class AutotuneOptions(EncoderOptions):
    """The keys of `python -m ur2.retrieval.autotune`."""

    index: str
    """The index folder that `ur2.retrieval.build` made; its manifest gets the breadth chosen."""
    queries: str = FROM_CORPUS
    """A file of queries like those to come: a text per line, or JSONL with `query`, `question` or
    `text`. `corpus` takes titles and first sentences of passages, which are easier to find than
    real questions."""
    vectors: str | None = None
    """The folder in which `build` kept the encoded vectors, if it was told to."""
    recall: Annotated[float, Field(gt=0, le=1)] = 0.97
    """The recall to reach."""
    k: Annotated[int, Field(ge=1)] = 10
    """Passages per query."""
    num_queries: Annotated[int, Field(ge=1)] = 500
    """The most queries to measure with; of more a sample is drawn."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Queries encoded at once."""
    seed: int = 0
    """Seed of the sample."""


def main() -> None:
    """The command's entry."""
    options = parse_command_line(
        AutotuneOptions, prog=PROG, about="Chooses how broadly an approximate index is searched."
    )
    store = PassageStore(Path(options.index))
    check_tunable(store)
    assert store.manifest.recipe.encoder is not None
    encoder = SentenceTransformerEncoder(
        store.manifest.recipe.encoder, options, batch_size=options.batch_size
    )
    vectors = VectorFolder(Path(options.vectors)) if options.vectors else None
    autotune(store, encoder, options, vectors)


def autotune(
    store: PassageStore,
    encoder: Encoder,
    options: AutotuneOptions,
    vectors: VectorSource | None = None,
) -> Tuning:
    """Measures, writes the choice into the manifest and the curve beside it, and prints both.

    Args:
        store: the index, opened from `options.index`.
        encoder: the one that made it.
        options: what to reach, and with which queries.
        vectors: the vectors as they were encoded, if they are still there.

    Raises:
        InputError: the index is searched exactly anyhow, or the queries cannot be read.
    """
    index = check_tunable(store)
    store.check_encoder(encoder)
    console = Console(stderr=True)
    queries = _sample(options, store)
    if options.queries == FROM_CORPUS:
        console.print("no queries given: measured with titles and first sentences of the corpus")
    threads, k = num_threads(options.num_threads), min(options.k, len(store))
    with console.status(f"searching {len(queries)} queries exactly"):
        query_QD = encoder.encode_queries(queries)
        _, exact_QK = (
            index.search_exactly(query_QD, k, num_threads=threads)
            if vectors is None
            else exact_search(vectors, query_QD, k, num_threads=threads)
        )
    with console.status("searching them ever more broadly"):
        measure = measure_of(index, query_QD, exact_QK, threads)
        points, chosen = choose(measure, ladder(index.breadths(k)), options.recall)
    tuning = Tuning(
        breadth=chosen.breadth,
        recall=chosen.recall,
        target=options.recall,
        k=k,
        num_queries=len(queries),
    )
    folder = Path(options.index)
    with writing(folder / CURVE_FILE):
        plot(points, chosen, options.recall, k, folder / CURVE_FILE)
    search = store.manifest.search.model_copy(update={"breadth": chosen.breadth, "tuning": tuning})
    store.manifest.model_copy(update={"search": search}).save(folder)
    _report(points, chosen, options, index.breadth_name)
    return tuning


def check_tuning(options: BuildOptions) -> None:
    """Makes sure, before anything is built, that what is built can be tuned as asked.

    Raises:
        InputError: the kind of index has no breadth, or the queries cannot be read.
    """
    if options.autotune_queries is None:
        return
    kind = options.dense if options.index == "hybrid" else options.index
    if kind not in ("hnsw", "ivf", "ivf_pq"):
        raise InputError(
            f"autotune_queries is of no use to a {kind} index; leave it out, or use index=hnsw, "
            "ivf or ivf_pq"
        )
    if options.autotune_queries != FROM_CORPUS:
        read_queries(Path(options.autotune_queries))


def tune_built(
    folder: Path, options: BuildOptions, load_encoder: LoadEncoder, vectors: VectorSource | None
) -> StoreManifest:
    """Tunes an index that was just built, as its build was asked to; returns its manifest."""
    store = PassageStore(folder)
    spec = store.manifest.recipe.encoder
    assert spec is not None, "only vectors are tuned"
    tuning = AutotuneOptions(
        index=str(folder),
        queries=options.autotune_queries or FROM_CORPUS,
        recall=options.autotune_recall,
        num_threads=options.num_threads,
    )
    autotune(store, load_encoder(spec, options), tuning, vectors)
    return load_manifest(folder)


def check_tunable(store: PassageStore) -> VectorIndex:
    """The part of an index whose breadth can be chosen.

    Raises:
        InputError: it has none.
    """
    if store.vectors is None or not store.vectors.breadths(1):
        kind = store.manifest.recipe.index.kind
        raise InputError(
            f"there is nothing to tune: a search of this {kind} index has no breadth; hnsw, ivf "
            "and ivf_pq do"
        )
    return store.vectors


def read_queries(path: Path) -> list[str]:
    """A text per line, or of JSONL the first of `query`, `question`, `text`.

    Raises:
        InputError: naming file and line.
    """
    try:
        lines = [line.decode() for line in path.read_bytes().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"queries={path} cannot be read as text ({error})") from error
    places = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix == ".jsonl":
        queries = [_query(line, f"{path}:{number}") for number, line in places]
    else:
        queries = [line.strip() for _, line in places]
    if not queries:
        raise InputError(f"queries={path} holds no query")
    return queries


def _query(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error})") from error
    texts = [row.get(key) for key in QUERY_KEYS] if isinstance(row, dict) else []
    query = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if query is None:
        raise InputError(f"{where}: a row is an object with one of {', '.join(QUERY_KEYS)}")
    return query


def _sample(options: AutotuneOptions, store: PassageStore) -> list[str]:
    rng = np.random.default_rng(options.seed)
    if options.queries == FROM_CORPUS:
        rows = rng.permutation(len(store))[: options.num_queries]
        return list(_openings(store, rows.tolist()))
    queries = read_queries(Path(options.queries))
    chosen = sorted(rng.permutation(len(queries))[: options.num_queries].tolist())
    return [queries[number] for number in chosen]


def _openings(store: PassageStore, rows: Sequence[int]) -> Iterator[str]:
    """In turns a passage's title and its first sentence, of one without title the sentence."""
    for number, row in enumerate(rows):
        passage = store.corpus.passage(row)
        sentence = SENTENCE.match(passage.text.strip())
        first = sentence.group() if sentence else passage.text
        yield passage.title if passage.title and number % 2 else first


def _report(points: Sequence[Point], chosen: Point, options: AutotuneOptions, name: str) -> None:
    table = Table(title=f"recall@{options.k} by {name}")
    for column in (name, "recall", "queries/s", ""):
        table.add_column(column, justify="right")
    for point in points:
        mark = "← chosen" if point == chosen else ""
        table.add_row(
            str(point.breadth), f"{point.recall:.4f}", f"{point.queries_per_s:,.0f}", mark
        )
    Console().print(table)
    if chosen.recall < options.recall:
        sys.stdout.write(
            f"recall {options.recall:g} is out of reach: {chosen.recall:.4f} is the best; keep "
            "more of each vector (quantiser, pq_bytes), or more links (hnsw_links)\n"
        )
    sys.stdout.write(f"{name} {chosen.breadth} goes into the manifest; curve: {CURVE_FILE}\n")


if __name__ == "__main__":
    run_entry(main)
