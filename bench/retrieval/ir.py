"""Quality of retrieval: nDCG@10 of BM25, MiniLM and their fusion on sets with judgements.

    python scripts/bench/ir.py [data=DIR] [work=DIR] [sets=scifact,cranfield,vaswani] [qrels=FILE]

DIR (data) holds beir_scifact and ir_small; `qrels` names further judgements of SciFact, e.g. its
test split, as TSV or TREC lines. Indexes are built by `ur2.retrieval.build` and searched through
its store; `work` keeps what was encoded, so that a second run is quick. A document is relevant or
not; queries without a relevant document do not count. Published: BEIR (Thakur et al. 2021; Kamalloo
et al. 2023) for BM25, the MTEB leaderboard for all-MiniLM-L6-v2, both on SciFact's test split.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figures import tell
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service.corpora import load_encoder
from ur2.retrieval.service.searcher import Searcher
from ur2.retrieval.service.store import PassageStore

ROOT = Path(__file__).parents[2]
DEPTH = 10
KINDS = ("lexical", "flat", "hybrid")
PUBLISHED = {("scifact test", "lexical"): "0.665 to 0.69", ("scifact test", "flat"): "0.645"}

Judged = Mapping[str, set[str]]
"""Query id -> ids of relevant documents."""


@dataclass(frozen=True)
class Collection:
    passages: Sequence[Mapping[str, str]]
    queries: Mapping[str, str]
    splits: Mapping[str, Judged]


def main() -> None:
    beside = os.environ.get("UR2_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    work = Path(tempfile.gettempdir()) / "ur2_bench_ir"
    given = {"data": beside, "work": str(work), "sets": "scifact,cranfield", "qrels": ""}
    given |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    figures: dict[str, float] = {}
    table = Table(title=f"nDCG@{DEPTH}")
    for column in ("set", "queries", "BM25", "MiniLM", "hybrid", "published BM25, MiniLM"):
        table.add_column(column, justify="right")
    for name in given["sets"].split(","):
        read = COLLECTIONS[name]
        collection = read(Path(given["data"]), given["qrels"])
        found = {kind: search(name, kind, collection, Path(given["work"])) for kind in KINDS}
        for split, judged in collection.splits.items():
            label = f"{name} {split}".strip()
            scores = {kind: mean_ndcg(judged, found[kind]) for kind in KINDS}
            figures |= {f"{label} {kind}".replace(" ", "_"): scores[kind] for kind in KINDS}
            published = [PUBLISHED.get((label, kind), "-") for kind in ("lexical", "flat")]
            cells = [f"{scores[kind]:.4f}" for kind in KINDS]
            table.add_row(label, str(len(judged)), *cells, ", ".join(published))
    Console(width=110).print(table)
    tell("ir", {key: round(value, 4) for key, value in figures.items()})


def search(name: str, kind: str, collection: Collection, work: Path) -> Mapping[str, Sequence[str]]:
    """Query id -> ids found, best first."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "passages.jsonl"
    lines = "".join(json.dumps(passage) + "\n" for passage in collection.passages)
    corpus.write_text(lines, encoding="utf-8")
    out = folder / kind
    command = [sys.executable, "-m", "ur2.retrieval.build", f"corpus={corpus}", f"out={out}"]
    command += [f"index={kind}", f"vectors={folder / 'vectors'}"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    store = PassageStore(out)
    spec = store.manifest.recipe.encoder
    options = ServiceOptions(num_threads=0)
    searcher = Searcher(store, spec and load_encoder(spec, options))
    judged = set().union(*collection.splits.values())
    asked = [query for query in collection.queries if query in judged]
    results = searcher.search([collection.queries[query] for query in asked], DEPTH)
    return {
        query: [passage.id for passage in passages]
        for query, passages in zip(asked, results, strict=True)
    }


def mean_ndcg(judged: Judged, found: Mapping[str, Sequence[str]]) -> float:
    return sum(ndcg(judged[query], found[query]) for query in judged) / len(judged)


def ndcg(relevant: set[str], ranked: Sequence[str]) -> float:
    """Järvelin and Kekäläinen 2002, with gains of 0 and 1."""
    gain = sum(1 / math.log2(rank + 2) for rank, id in enumerate(ranked) if id in relevant)
    return gain / sum(1 / math.log2(rank + 2) for rank in range(min(DEPTH, len(relevant))))


def scifact(data: Path, qrels: str) -> Collection:
    folder = data / "beir_scifact"
    rows, queries = (
        [json.loads(line) for line in (folder / f"{part}.jsonl").read_bytes().splitlines()]
        for part in ("corpus", "queries")
    )
    splits = {"train": judgements(folder / "qrels_train.tsv")}
    if qrels:
        splits["test"] = judgements(Path(qrels))
    return Collection(
        [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in rows],
        {row["_id"]: row["text"] for row in queries},
        splits,
    )


def cranfield(data: Path, qrels: str) -> Collection:
    folder = data / "ir_small"
    docs, queries, marks = (
        json.loads((folder / f"cranfield_{part}.json").read_text())
        for part in ("docs", "queries", "qrels")
    )
    passages = [
        {"id": str(doc["id"]), "title": " ".join(doc["title"].split()), "text": doc["body"]}
        for doc in docs
        if doc["body"].strip()
    ]
    judged: dict[str, set[str]] = {}
    for mark in marks:
        if mark["position"] > 0:  # 1 to 4 are degrees of relevance, -1 is none
            judged.setdefault(mark["query_num"], set()).add(mark["id"])
    asked = {str(row["query number"]): row["query"] for row in queries}
    return Collection(passages, asked, {"": {q: d for q, d in judged.items() if q in asked}})


def vaswani(data: Path, qrels: str) -> Collection:
    folder = data / "ir_small"
    docs = re.findall(
        r"<DOCNO>\s*(\S+)\s*</DOCNO>(.*?)</DOC>", (folder / "vaswani_docs.trec").read_text(), re.S
    )
    queries = re.findall(
        r"<num>\s*(\S+)\s*</num>\s*<title>(.*?)</title>",
        (folder / "vaswani_queries.trec").read_text(),
        re.S,
    )
    return Collection(
        [{"id": number, "text": " ".join(text.split())} for number, text in docs if text.strip()],
        {number: " ".join(text.split()).lower() for number, text in queries},
        {"": judgements(folder / "vaswani_qrels.txt")},
    )


def judgements(path: Path) -> Judged:
    """Lines of `query document mark` or `query 0 document mark`; a heading is passed over."""
    judged: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        query, *_, document, mark = line.split()
        if mark.lstrip("-").isdigit() and int(mark) > 0:
            judged.setdefault(query, set()).add(document)
    return judged


COLLECTIONS: Mapping[str, Callable[[Path, str], Collection]] = {
    "scifact": scifact,
    "cranfield": cranfield,
    "vaswani": vaswani,
}
