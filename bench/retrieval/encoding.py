"""Encoding next to the bare model, and the memory of a million passages served.

    python scripts/bench/encoding.py [part=speed|memory|both] [data=DIR] [passages=1000000]

speed: the encoding stage of a build (memory-mapped corpus in, shards of vectors on disk out) next
to sentence_transformers' own `encode` of the same passages: MiniLM, one thread, the same batch size
and arithmetic, repeats interleaved; by the clock, and by processor time, which other work on the
machine hardly moves.

memory: so many passages, varied from real ones, go through the real build; only their vectors are
random. A fresh process opens the index and answers 200 queries that come as vectors, as where the
encoder is elsewhere; another one has MiniLM and answers 200 real questions. Resident memory (RSS)
counts every page that a process maps, also those of the index and the corpus, which lie in the page
cache once for all processes and can be dropped at any time; anonymous memory is what is left
without them. DIR holds ur2_eval_corpus and open_qa.
"""

import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.figures import tell
from ur2.processor import computes
from ur2.retrieval.corpus.file import Corpus, CorpusWriter
from ur2.retrieval.encoder.sentence_encoder import BUNDLED, SentenceTransformerEncoder, encoder_spec
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import BuildOptions, EncoderOptions
from ur2.retrieval.service.searcher import Searcher
from ur2.retrieval.service.store import CORPUS_FILE, VECTORS_FILE, PassageStore

ROOT = Path(__file__).parents[2]
BATCH, REPEATS, NUM_TIMED, WARM_UP = 32, 5, 512, 64
DIMENSION, NUM_QUESTIONS, TOP_K = 384, 200, 10
MB = 1e6


def main() -> None:
    beside = os.environ.get("UR2_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    given = {"part": "both", "data": beside, "passages": "1000000", "folder": ""}
    given |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    data, folder, num = Path(given["data"]), Path(given["folder"]), int(given["passages"])
    part = given["part"]
    if part in CHILD_PARTS:
        print(json.dumps(CHILD_PARTS[part](data, folder, num)))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="ur2-bench-") as scratch:
        if part in ("speed", "both"):
            figures |= speed(data, Path(scratch))
        if part in ("memory", "both"):
            figures |= memory(data, Path(scratch), num)
    tell("encoding", {key: round(value, 3) for key, value in figures.items()})


def speed(data: Path, scratch: Path) -> dict[str, float]:
    import torch
    from sentence_transformers import SentenceTransformer

    from ur2.retrieval.encoder.shards import Encoding

    rows = list(real_passages(data))
    rng = np.random.default_rng(0)
    chosen = [rows[i] for i in sorted(rng.choice(len(rows), NUM_TIMED + WARM_UP, replace=False))]
    corpora = {
        name: write(scratch / f"{name}.arrow", part)
        for name, part in (("warm", chosen[:WARM_UP]), ("timed", chosen[WARM_UP:]))
    }
    options = BuildOptions(corpus="-", out="-", num_threads=1, batch_size=BATCH)
    spec = encoder_spec("minilm", query_prefix=None, passage_prefix=None)
    encoder = SentenceTransformerEncoder(spec, options, batch_size=BATCH)
    texts = Corpus(corpora["timed"]).texts(0, NUM_TIMED)
    model: Any = SentenceTransformer(BUNDLED["minilm"].folder(), device="cpu")
    short = computes("bfloat16")

    def bare() -> NDArray[np.float32]:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            found: NDArray[np.float32] = model.encode(
                texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return found

    def ours(name: str, repeat: int) -> NDArray[np.float32]:
        folder = scratch / f"{name}-{repeat}"
        return Encoding(corpora[name], spec, folder, options, lambda *_: encoder).run()[:]

    ours("warm", 0)
    seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    cosine = 1.0
    for repeat in range(REPEATS):
        first, one = timed(bare)
        second, other = timed(lambda repeat=repeat: ours("timed", repeat))
        seconds["bare"].append(first)
        seconds["ours"].append(second)
        cosine = min(cosine, float((one * other).sum(axis=1).min()))
    ratios = [
        [a[kind] / b[kind] for a, b in zip(seconds["bare"], seconds["ours"], strict=True)]
        for kind in (0, 1)
    ]
    table = Table(title=f"{NUM_TIMED} passages, batches of {BATCH}, one thread, {REPEATS} repeats")
    for column in ("", "passages/s by the clock", "passages/s of processor time"):
        table.add_column(column, justify="right")
    for name, label in (("bare", "sentence_transformers"), ("ours", "ur2")):
        rates = [[NUM_TIMED / pair[kind] for pair in seconds[name]] for kind in (0, 1)]
        table.add_row(label, *map(spread, rates))
    table.add_row("ratio", *map(spread, ratios))
    Console(width=110).print(table)
    print(f"least cosine between the two: {cosine:.6f}")
    wall, cpu = (statistics.median(kind) for kind in ratios)
    rate = NUM_TIMED / statistics.median(pair[0] for pair in seconds["ours"])
    return {"encoding_ratio": wall, "encoding_ratio_cpu": cpu, "passages_per_s": rate}


def memory(data: Path, scratch: Path, num: int) -> dict[str, float]:
    made = child("make", data, scratch, num)
    index = made["index_mb"]
    alone, whole = (child(part, data, scratch, num) for part in ("search", "serve"))
    table = Table(title=f"{num:,} passages, {DIMENSION}-wide flat index, {NUM_QUESTIONS} queries")
    for column in ("", "MB", "of the index"):
        table.add_column(column, justify="right")
    rows = [
        ("index file", index),
        ("corpus file", made["corpus_mb"]),
        ("index and corpus, resident after the queries", alone["rss_mb"]),
        ("of that, shared pages counted by share", alone["pss_mb"]),
        ("of that, anonymous", alone["anonymous_mb"]),
        ("with MiniLM, resident before the index is opened", whole["base_rss_mb"]),
        ("with MiniLM, resident after the questions", whole["rss_mb"]),
        ("with MiniLM, of that anonymous", whole["anonymous_mb"]),
        ("peak while the corpus file was made", made["convert_rss_mb"]),
        ("peak while the index was made (once mapped, once held)", made["build_rss_mb"]),
    ]
    for label, megabytes in rows:
        table.add_row(label, f"{megabytes:,.0f}", f"{megabytes / index:.2f}")
    Console(width=110).print(table)
    print(
        f"the corpus file: {num / made['convert_s']:,.0f} passages/s by the clock, "
        f"{num / made['convert_cpu_s']:,.0f} by processor time"
    )
    return {
        "memory_ratio": alone["rss_mb"] / index,
        "memory_ratio_with_encoder": whole["rss_mb"] / index,
        "anonymous_ratio": alone["anonymous_mb"] / index,
        "corpus_passages_per_s": num / made["convert_s"],
        "corpus_passages_per_cpu_s": num / made["convert_cpu_s"],
        "corpus_peak_mb": made["convert_rss_mb"],
    }


def make_index(data: Path, folder: Path, num: int) -> dict[str, float]:
    """Runs in a process of its own: the corpus file, then an index over it."""
    from ur2.retrieval.build import build
    from ur2.retrieval.corpus.__main__ import make
    from ur2.retrieval.corpus.options import CorpusOptions

    source, corpus = folder / "passages.jsonl", folder / CORPUS_FILE
    with source.open("w", encoding="utf-8") as file:
        for row in varied(list(real_passages(data)), num):
            file.write(json.dumps(row) + "\n")
    started, cpu = time.perf_counter(), time.process_time()
    make(CorpusOptions.load({"in": str(source), "out": str(corpus)}, where="bench"))
    convert_s, convert_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    convert_rss = peak_rss()
    source.unlink()
    tree = {"corpus": str(corpus), "out": str(folder / "index"), "num_threads": 1}
    build(BuildOptions.load(tree, where="bench"), lambda spec, _: RandomVectors(spec))
    return {
        "convert_s": convert_s,
        "convert_cpu_s": convert_cpu_s,
        "convert_rss_mb": convert_rss,
        "build_rss_mb": peak_rss(),
        "index_mb": (folder / "index" / VECTORS_FILE).stat().st_size / MB,
        "corpus_mb": (folder / "index" / CORPUS_FILE).stat().st_size / MB,
    }


def search_index(data: Path, folder: Path, num: int) -> dict[str, float]:
    """Runs in a fresh process: index and corpus alone."""
    store = PassageStore(folder / "index")
    queries = RandomVectors(EncoderSpec(name="")).encode_queries([""] * NUM_QUESTIONS)
    found = [store.search([""], query_QD[None], TOP_K)[0] for query_QD in queries]
    assert all(len(passages) == TOP_K and all(p.text for p in passages) for passages in found)
    return resident()


def serve_index(data: Path, folder: Path, num: int) -> dict[str, float]:
    """Runs in a fresh process: questions as texts."""
    questions = (data / "open_qa" / "nq_open_dev_3610.jsonl").read_text(encoding="utf-8")
    asked = [json.loads(line)["question"] for line in questions.splitlines()[:NUM_QUESTIONS]]
    spec = encoder_spec("minilm", query_prefix=None, passage_prefix=None)
    encoder = SentenceTransformerEncoder(spec, EncoderOptions(num_threads=1))
    encoder.encode_queries(asked)
    before = resident()
    searcher = Searcher(PassageStore(folder / "index"), encoder)
    found = [searcher.search([question], TOP_K)[0] for question in asked]
    assert all(len(passages) == TOP_K and all(p.text for p in passages) for passages in found)
    return {"base_rss_mb": before["rss_mb"], **resident()}


CHILD_PARTS = {"make": make_index, "search": search_index, "serve": serve_index}


class RandomVectors:
    """Stands for an encoder where encoding would take an hour: unit vectors of the right width."""

    dimension = DIMENSION

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self._rng = np.random.default_rng(0)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_passages(queries)

    def encode_passages(self, passages: Sequence[str]) -> NDArray[np.float32]:
        rows = self._rng.standard_normal((len(passages), DIMENSION), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def child(part: str, data: Path, folder: Path, num: int) -> dict[str, float]:
    arguments = (f"part={part}", f"data={data}", f"folder={folder}", f"passages={num}")
    command = [sys.executable, "-m", __spec__.name, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def real_passages(data: Path) -> Iterator[dict[str, str]]:
    with gzip.open(data / "ur2_eval_corpus" / "passages.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield {"id": row["id"], "title": row["title"], "text": row["text"]}


def varied(rows: Sequence[dict[str, str]], num: int) -> Iterator[dict[str, str]]:
    """Real passages, then the same with their words turned by one place, by two places, ..."""
    for n in range(num):
        row, turn = rows[n % len(rows)], n // len(rows)
        words = row["text"].split()
        place = turn % len(words)
        text = " ".join(words[place:] + words[:place])
        yield {"id": f"{row['id']}-{turn}", "title": row["title"], "text": text}


def write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with CorpusWriter(path, sha256=path.stem) as writer:
        writer.append(*([row[name] for row in rows] for name in ("id", "title", "text")))
        writer.finish()
    return path


def timed(work: Any) -> tuple[tuple[float, float], NDArray[np.float32]]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - wall, time.process_time() - cpu), found


def spread(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.3g} ({low:.3g} to {high:.3g})"


def peak_rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def resident() -> dict[str, float]:
    """Of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines}
    names = {"Rss:": "rss_mb", "Pss:": "pss_mb", "Anonymous:": "anonymous_mb"}
    return {name: kilobytes[kind] * 1024 / MB for kind, name in names.items()}


if __name__ == "__main__":
    main()
