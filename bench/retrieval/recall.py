"""Recall, speed and size of the kinds of index, on MiniLM's vectors of real passages and questions.

    python scripts/bench/recall.py [data=DIR] [work=DIR] [passages=15000] [threads=1]

DIR (data) holds ur2_eval_corpus and ur2_reference. Passages are encoded once by
`ur2.retrieval.build`, which keeps the vectors in `work`. Queries are the questions of UR²'s
HotpotQA and 2Wiki evaluation sets. Recall@10 is against exact search over those vectors;
queries/s are of one batch of all queries and of queries one by one, medians of three rounds
interleaved over the kinds. "Chosen" is what `autotune` takes for a recall of 0.97.
"""

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.figures import tell
from ur2.retrieval.encoder.shards import load_encoder
from ur2.retrieval.encoder.vectors import VectorFolder
from ur2.retrieval.index.nearest import VectorIndex, build_index, exact_search, load
from ur2.retrieval.index.options import IndexOptions
from ur2.retrieval.index.recall_curve import choose, ladder, measure_of, recall
from ur2.retrieval.index.rules import index_spec
from ur2.retrieval.manifest import load_manifest
from ur2.retrieval.options import BuildOptions

ROOT = Path(__file__).parents[2]
QUESTIONS = ("hotpot500/hotpotqa_500.jsonl", "2wiki500/2wiki_500.jsonl")
K, TARGET, ROUNDS, NUM_SINGLE = 10, 0.97, 3, 100
HNSW_BREADTHS = (16, 64, 128, 512, 2048)
KINDS = {
    "flat": IndexOptions(),
    "flat fp16": IndexOptions(quantiser="fp16"),
    "flat sq8": IndexOptions(quantiser="sq8"),
    "hnsw": IndexOptions(index="hnsw"),
    "hnsw sq8": IndexOptions(index="hnsw", quantiser="sq8"),
    "ivf": IndexOptions(index="ivf"),
    "ivf sq8": IndexOptions(index="ivf", quantiser="sq8"),
    "ivf_pq": IndexOptions(index="ivf_pq", pq_rotate=False),
    "ivf_pq, rotated": IndexOptions(index="ivf_pq"),
}


@dataclass
class Row:
    label: str
    index: VectorIndex
    breadth: int | None
    made_s: float
    num_bytes: float
    """Per vector, on disk."""
    recall: float = 0.0
    batch_s: list[float] = field(default_factory=list)
    single_s: list[float] = field(default_factory=list)


def main() -> None:
    beside = os.environ.get("UR2_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    work = Path(tempfile.gettempdir()) / "ur2_bench_recall"
    given = {"data": beside, "work": str(work), "passages": "15000", "threads": "1"}
    given |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    threads = int(given["threads"])
    vectors, query_QD = encoded(Path(given["data"]), Path(given["work"]), int(given["passages"]))
    _, exact_QK = exact_search(vectors, query_QD, K)
    rows = [row for label in KINDS for row in made(label, vectors, query_QD, exact_QK)]
    for _ in range(ROUNDS):
        for row in rows:
            time_searches(row, query_QD, threads)
    for row in rows:
        found_QK = row.index.search(query_QD, K, breadth=row.breadth)[1]
        row.recall = recall(found_QK, exact_QK)
    report(rows, len(vectors), len(query_QD))


def encoded(data: Path, work: Path, num: int) -> tuple[VectorFolder, NDArray[np.float32]]:
    folder = work / str(num)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "passages.jsonl"
    with gzip.open(data / "ur2_eval_corpus" / "passages.jsonl.gz") as file:
        corpus.write_bytes(b"".join(line for line, _ in zip(file, range(num), strict=False)))
    options = BuildOptions(
        corpus=str(corpus), out=str(folder / "index"), vectors=str(folder / "vectors")
    )
    arguments = [f"{key}={getattr(options, key)}" for key in ("corpus", "out", "vectors")]
    subprocess.run(
        [sys.executable, "-m", "ur2.retrieval.build", *arguments], check=True, stdout=sys.stderr
    )
    spec = load_manifest(folder / "index").recipe.encoder
    assert spec is not None
    questions = [
        json.loads(line)["question"]
        for name in QUESTIONS
        for line in (data / "ur2_reference" / name).read_bytes().splitlines()
    ]
    return VectorFolder(folder / "vectors"), load_encoder(spec, options).encode_queries(questions)


def made(
    label: str,
    vectors: VectorFolder,
    query_QD: NDArray[np.float32],
    exact_QK: NDArray[np.int64],
) -> list[Row]:
    """The index, opened from disk, at each breadth worth a row."""
    spec = index_spec(KINDS[label]).vectors
    assert spec is not None
    started_s = time.perf_counter()
    index = build_index(spec, vectors)
    made_s = time.perf_counter() - started_s
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        index.save(path)
        num_bytes = path.stat().st_size / len(vectors)
        index = load(path)  # stays mapped when the file is gone
    breadths = index.breadths(K)
    if not breadths:
        return [Row(label, index, None, made_s, num_bytes)]
    _, chosen = choose(measure_of(index, query_QD, exact_QK, 1), ladder(breadths), TARGET)
    rows = [Row(f"{label}, chosen", index, chosen.breadth, made_s, num_bytes)]
    if label == "hnsw":
        rows += [Row(label, index, breadth, made_s, num_bytes) for breadth in HNSW_BREADTHS]
    return rows


def time_searches(row: Row, query_QD: NDArray[np.float32], threads: int) -> None:
    started_s = time.perf_counter()
    row.index.search(query_QD, K, breadth=row.breadth, num_threads=threads)
    row.batch_s.append((time.perf_counter() - started_s) / len(query_QD))
    started_s = time.perf_counter()
    for number in range(NUM_SINGLE):
        query_1D = query_QD[number : number + 1]
        row.index.search(query_1D, K, breadth=row.breadth, num_threads=threads)
    row.single_s.append((time.perf_counter() - started_s) / NUM_SINGLE)


def report(rows: list[Row], num_vectors: int, num_queries: int) -> None:
    table = Table(title=f"{num_vectors} vectors, {num_queries} queries, recall@{K}")
    columns = ("index", "breadth", "recall", "batch /s", "single /s", "made in s", "bytes/vector")
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        speeds = [f"{1 / statistics.median(s):,.0f}" for s in (row.batch_s, row.single_s)]
        cells = [row.label, str(row.breadth or "-"), f"{row.recall:.4f}", *speeds]
        table.add_row(*cells, f"{row.made_s:.1f}", f"{row.num_bytes:.0f}")
    Console(width=110).print(table)
    of = {(row.label, row.breadth): row for row in rows}
    broad, narrow = of["hnsw", 2048], next(row for row in rows if row.label == "hnsw, chosen")
    chosen = [row for row in rows if "chosen" in row.label]
    figures = {
        "hnsw_chosen_breadth": narrow.breadth,
        "hnsw_chosen_recall": round(narrow.recall, 4),
        "hnsw_2048_recall": round(broad.recall, 4),
        "hnsw_2048_cost_ratio": round(
            statistics.median(broad.batch_s) / statistics.median(narrow.batch_s), 1
        ),
        "recall_min_chosen": round(min(r.recall for r in chosen if "pq" not in r.label), 4),
        "ivf_pq_recall": round(max(r.recall for r in chosen if "pq" in r.label), 4),
    }
    tell("recall", figures)
