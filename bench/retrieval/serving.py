"""Speed of the retrieval service beside a server that encodes and searches within each request.

    python scripts/bench/retrieval.py [data=DIR] [passages=33091] [threads=1] [rounds=3]

DIR holds ur2_eval_corpus (33,091 Wikipedia passages) and ur2_reference (the questions asked).
The index is made once, in the system's folder for temporary files; all passages take minutes.

Both servers are processes of their own, over HTTP, with the same MiniLM, the same exact index and
the same number of threads. The plain one does as Search-R1's: its async handler encodes the queries
of a request with transformers, searches them and answers, one request at a time, in float32; one in
bfloat16 is shown too (its vectors fit the index in either). Another process keeps 256 requests of
one query each under way, the next on a connection as soon as the last is answered. Rounds alternate
between the servers; figures are medians over rounds, each after the caches were emptied.

Distinct: no query comes twice. Repeats: every query comes twice, at random places. Recall is the
share of the ten passages found that exact search with float32 vectors of the queries finds too.
Processor time, of a server and of the load process, is hardly moved by other work on the machine.
"""

import asyncio
import contextlib
import gzip
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.figures import tell

ROOT = Path(__file__).parents[2]
CACHE = Path(tempfile.gettempdir()) / "ur2-bench-retrieval"
CONNECTIONS = 256
TOP_K = 10
NUM_PLAIN = 512
"""Requests of a round to the plain server, which is slow; two for each connection."""
QUESTIONS = (
    "hotpot500/hotpotqa_500.jsonl",
    "2wiki500/2wiki_500.jsonl",
    "musique500/musique_500.jsonl",
    "bamboogle/bamboogle.jsonl",
    "train/train_rag_math_stage2.jsonl",
)
Figures = dict[str, float]


def main() -> None:
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    role = arguments.pop("role", "bench")
    if role == "plain":
        serve_plain(**arguments)
    elif role == "load":
        asyncio.run(load(arguments["url"], json.load(sys.stdin)))
    else:
        bench(**arguments)


def bench(
    data: str | None = None,
    passages: str = "33091",
    threads: str = "1",
    rounds: str = "3",
) -> None:
    folder = Path(data or os.environ.get("UR2_SHARED_DATA", ROOT.parent / "shared" / "data"))
    index = make_index(folder / "ur2_eval_corpus" / "passages.jsonl.gz", int(passages))
    questions = read_questions(folder / "ur2_reference")
    warm, asked = questions[:CONNECTIONS], questions[CONNECTIONS:]
    random.Random(0).shuffle(asked)
    ours = ("ur2.retrieval.serve", f"index={index}", f"num_threads={threads}", "port=0")
    plain = (__spec__.name, "role=plain", f"index={index}", f"threads={threads}")
    results: dict[str, list[Figures]] = {}
    with (
        serving(module(*ours, f"max_waiting={len(asked)}")) as our_server,
        serving(module(*plain, "precision=float32")) as plain_server,
        serving(module(*plain, "precision=bfloat16")) as short_server,
    ):
        for server in (plain_server, short_server):
            ask(server, warm[:32])
        for number in track(range(int(rounds)), "rounds", console=Console(stderr=True)):
            for kind in ("distinct", "repeats"):
                stream = asked if kind == "distinct" else repeated(asked, seed=number)
                figures, _ = ask(plain_server, stream[:NUM_PLAIN])
                results.setdefault(f"plain, {kind}", []).append(figures)
                if kind == "distinct":
                    figures, _ = ask(short_server, stream[:NUM_PLAIN])
                    results.setdefault("plain in bfloat16, distinct", []).append(figures)
                empty_caches(our_server.url)
                ask(our_server, warm)
                before = batches(our_server.url)
                figures, found = ask(our_server, stream)
                figures |= since(before, batches(our_server.url))
                results.setdefault(f"ours, {kind}", []).append(figures)
                if kind == "distinct":
                    answers = dict(zip(stream, found, strict=True))
    recall = recall_of(answers, index)
    report({name: median(rows) for name, rows in results.items()}, results, recall)


def report(rows: dict[str, Figures], all_rounds: dict[str, list[Figures]], recall: float) -> None:
    table = Table(title=f"{CONNECTIONS} requests under way, one query each, top {TOP_K}")
    columns = ("server", "queries/s", "min-max", "p50 s", "p95 s", "p99 s", "server ms", "load ms")
    for column in (*columns, "batch", "hits"):
        table.add_column(column)
    for name, row in rows.items():
        rates = [figures["qps"] for figures in all_rounds[name]]
        table.add_row(
            name,
            f"{row['qps']:.0f}",
            f"{min(rates):.0f}-{max(rates):.0f}",
            *(f"{row[key]:.3f}" for key in ("p50", "p95", "p99")),
            *(f"{row[key]:.2f}" for key in ("server_ms", "load_ms")),
            f"{row['batch']:.0f}" if "batch" in row else "",
            f"{row['hits']:.2f}" if "hits" in row else "",
        )
    Console(width=110).print(table)
    print("server ms, load ms: processor time of a query, all threads")

    def ratio(key: str, kind: str, plain: str = "plain") -> float:
        return round(rows[f"ours, {kind}"][key] / rows[f"{plain}, {kind}"][key], 3)

    tell(
        "retrieval",
        {
            "qps_ratio": ratio("qps", "distinct"),
            "qps_ratio_repeats": ratio("qps", "repeats"),
            "recall": round(recall, 4),
            "p99_ratio": ratio("p99", "distinct"),
            "qps_ratio_bfloat16": ratio("qps", "distinct", "plain in bfloat16"),
            "server_ms_ratio": round(1 / ratio("server_ms", "distinct"), 3),
            "hit_rate_repeats": round(rows["ours, repeats"]["hits"], 3),
            "qps": {name: round(row["qps"], 1) for name, row in rows.items()},
        },
    )


# Servers


def module(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE"):  # libraries choose, on both sides
        environment.pop(name, None)
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


class Server(NamedTuple):
    url: str
    pid: int

    def cpu_s(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(process: subprocess.Popen[str]) -> Iterator[Server]:
    with process:
        assert process.stdout is not None
        try:
            url = re.findall(r"at (http://\S+)", process.stdout.readline())[0]
            yield Server(url, process.pid)
        finally:
            process.terminate()


def serve_plain(index: str, threads: str, precision: str) -> None:
    """What a straightforward server does: everything within the handler of each request."""
    import faiss
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import AutoModel, AutoTokenizer

    from ur2.retrieval.encoder.sentence_encoder import BUNDLED
    from ur2.retrieval.serve import listen
    from ur2.retrieval.service.store import PassageStore

    torch.set_num_threads(int(threads))
    faiss.omp_set_num_threads(int(threads))
    store = PassageStore(Path(index))
    passages = [store.corpus.passage(row) for row in range(len(store))]
    searcher = faiss.read_index(str(Path(index) / "vectors.faiss"))
    folder = BUNDLED["minilm"].folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).to(getattr(torch, precision)).eval()

    class Request(BaseModel):
        queries: list[str]
        topk: int = TOP_K
        return_scores: bool = False

    @torch.no_grad()
    def encode(queries: list[str]) -> Any:
        inputs = tokenizer(
            queries, max_length=256, padding=True, truncation=True, return_tensors="pt"
        )
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).float().numpy()

    app = FastAPI()

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Any:
        scores, rows = searcher.search(encode(request.queries), request.topk)
        return {
            "result": [
                [
                    {
                        "document": {
                            "id": passages[row].id,
                            "contents": f"{passages[row].title}\n{passages[row].text}",
                        },
                        "score": float(score),
                    }
                    for row, score in zip(found, fits, strict=True)
                ]
                for found, fits in zip(rows.tolist(), scores.tolist(), strict=True)
            ]
        }

    listener = listen("127.0.0.1", 0, token=None)
    print(f"at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def empty_caches(url: str) -> None:
    fetch(f"{url}/reload", b"{}")


def batches(url: str) -> Figures:
    text = fetch(f"{url}/metrics").decode()
    values = dict(re.findall(r"^(ur2_\w+?)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE))
    names = ("batch_size_sum", "batch_size_count", "cache_hits_total")
    return {name: float(values[f"ur2_retrieval_{name}"]) for name in names}


def since(before: Figures, after: Figures) -> Figures:
    searched, number, hits = (after[name] - before[name] for name in before)
    return {"batch": searched / number, "hits": hits / (hits + searched)}


def fetch(url: str, body: bytes | None = None) -> bytes:
    import urllib.request

    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        content: bytes = response.read()
    return content


# Load


def ask(server: Server, queries: Sequence[str]) -> tuple[Figures, list[list[str]]]:
    """Has another process ask; its figures, and the ids found for each query."""
    command = [sys.executable, "-m", __spec__.name, "role=load", f"url={server.url}"]
    asked, before_s = json.dumps(list(queries)), server.cpu_s()
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    server_ms = (server.cpu_s() - before_s) / len(queries) * 1e3
    answer = json.loads(done.stdout)
    return {**answer["figures"], "server_ms": server_ms}, answer["found"]


async def load(url: str, queries: list[str]) -> None:
    """Asks over as many connections as there may be, with no more work than that takes."""
    host, port = re.findall(r"//(.+):(\d+)", url)[0]
    numbers = iter(range(len(queries)))
    bodies: list[bytes] = [b""] * len(queries)
    latencies_s: list[float] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        for number in numbers:
            started_s = time.perf_counter()
            writer.write(request_of(queries[number]))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(re.findall(rb"content-length: (\d+)", head)[0])
            bodies[number] = await reader.readexactly(length)
            latencies_s.append(time.perf_counter() - started_s)
        writer.close()

    started_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(min(CONNECTIONS, len(queries)))))
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    p50, p95, p99 = np.quantile(latencies_s, (0.5, 0.95, 0.99)).tolist()
    load_ms = cpu_s / len(queries) * 1e3
    figures = {"qps": len(queries) / wall_s, "p50": p50, "p95": p95, "p99": p99, "load_ms": load_ms}
    found = [
        [document["document"]["id"] for document in json.loads(body)["result"][0]]
        for body in bodies
    ]
    json.dump({"figures": figures, "found": found}, sys.stdout)


def request_of(query: str) -> bytes:
    body = json.dumps({"queries": [query], "topk": TOP_K, "return_scores": True}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


# Passages, questions and truth


def make_index(source: Path, num_passages: int) -> Path:
    CACHE.mkdir(exist_ok=True)
    corpus, index = CACHE / f"{num_passages}.jsonl", CACHE / f"index-{num_passages}"
    corpus.write_text("".join(lines(source)[:num_passages]), encoding="utf-8")
    build = ("ur2.retrieval.build", f"corpus={corpus}", f"out={index}", "shard_size=2048")
    if module(*build).wait():
        raise SystemExit("the index could not be made")
    return index


def read_questions(folder: Path) -> list[str]:
    rows = (json.loads(line) for name in QUESTIONS for line in lines(folder / name))
    texts = (row["question"] for row in rows if row.get("source") != "math")
    return list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))


def lines(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return list(file)


def repeated(queries: Sequence[str], *, seed: int) -> list[str]:
    half = list(queries[: len(queries) // 2])
    stream = half * 2
    random.Random(seed).shuffle(stream)
    return stream


def recall_of(answers: dict[str, list[str]], index: Path) -> float:
    """Beside exact search, for a sample of the queries."""
    from ur2.retrieval.encoder.sentence_encoder import SentenceTransformerEncoder
    from ur2.retrieval.options import EncoderOptions
    from ur2.retrieval.service.store import PassageStore

    store = PassageStore(index)
    queries = list(answers)[:512]
    spec = store.manifest.recipe.encoder
    assert spec is not None
    encoder = SentenceTransformerEncoder(spec, EncoderOptions(precision="float32"))
    exact = store.search(queries, encoder.encode_queries(queries), TOP_K)
    shares = [
        len({passage.id for passage in truth} & set(answers[query])) / TOP_K
        for query, truth in zip(queries, exact, strict=True)
    ]
    return statistics.fmean(shares)


def median(rows: list[Figures]) -> Figures:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


if __name__ == "__main__":
    main()
