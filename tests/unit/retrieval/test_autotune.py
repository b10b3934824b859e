import json
from pathlib import Path
from typing import Any

import pytest

from ur2.errors import InputError
from ur2.retrieval.autotune import AutotuneOptions, autotune, check_tuning, read_queries
from ur2.retrieval.build import search_as_asked
from ur2.retrieval.index.nearest import InMemory
from ur2.retrieval.index.recall_curve import recall
from ur2.retrieval.manifest import load_manifest
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.service.store import PassageStore
from ur2.types import Passage

PASSAGES = [
    Passage(id=f"p{i}", title=f"title {i}" if i % 3 else "", text=f"fact {i}. More of {i}.")
    for i in range(1500)
]


def tune(folder: Path, encoder: Any, vectors: Any = None, **options: Any) -> Any:
    return autotune(
        PassageStore(folder), encoder, AutotuneOptions(index=str(folder), **options), vectors
    )


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_chosen_breadth_reaches_the_target_and_is_in_the_manifest(
    make_index: Any, encoder: Any, tmp_path: Path, kind: str
) -> None:
    folder = make_index(passages=PASSAGES, index=kind, hnsw_links=4, hnsw_build_breadth=8)
    queries = [f"question {i}" for i in range(200)]
    (tmp_path / "queries.txt").write_text("\n".join(queries))
    tuning = tune(folder, encoder, queries=str(tmp_path / "queries.txt"), recall=0.9)

    store = PassageStore(folder)
    assert store.manifest.search.tuning == tuning
    assert store.manifest.search.breadth == tuning.breadth
    assert (tuning.k, tuning.num_queries, tuning.target) == (10, 200, 0.9)
    assert (folder / "autotune.png").stat().st_size > 1000

    index, query_QD = store.vectors, encoder.encode_queries(queries)
    assert index is not None
    vector_ND = encoder.encode_passages(
        [f"{p.title}\n{p.text}" if p.title else p.text for p in PASSAGES]
    )
    exact = (-(query_QD @ vector_ND.T)).argsort(axis=1)[:, :10]
    assert recall(index.search(query_QD, 10)[1], exact) == pytest.approx(tuning.recall, abs=1e-3)
    assert tuning.recall >= 0.9
    narrower = index.search(query_QD, 10, breadth=tuning.breadth - 1)[1]
    assert recall(narrower, exact) < 0.9


def test_recall_of_codes_is_against_the_vectors_that_were_encoded(
    make_index: Any, encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_index(passages=PASSAGES, index="ivf_pq", pq_bytes=1, pq_rotate=False)
    kept = tune(folder, encoder, num_queries=50, recall=0.99)
    assert kept.recall >= 0.99
    encoded = encoder.encode_passages(
        [f"{p.title}\n{p.text}" if p.title else p.text for p in PASSAGES]
    )
    true = tune(folder, encoder, InMemory(encoded), num_queries=50, recall=0.99)
    assert true.recall < 0.7
    assert "recall 0.99 is out of reach" in capsys.readouterr().out


def test_without_queries_titles_and_first_sentences_are_asked(
    make_index: Any, encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_index(passages=PASSAGES, index="ivf")
    tune(folder, encoder, num_queries=40)
    assert "no queries given" in capsys.readouterr().err
    (asked,) = encoder.query_batches
    assert len(asked) == 40
    titles = {p.title for p in PASSAGES if p.title}
    sentences = {p.text.partition(".")[0] + "." for p in PASSAGES}
    assert set(asked) <= titles | sentences
    assert set(asked) & titles
    assert set(asked) & sentences


def test_a_build_tunes_when_it_is_asked_to_and_the_next_keeps_that(
    make_index: Any, encoder: Any, write_corpus: Any
) -> None:
    folder = make_index(passages=PASSAGES, index="ivf", autotune_queries="corpus")
    tuned = load_manifest(folder).search
    assert tuned.tuning is not None
    assert tuned.tuning.target == 0.97

    def asked(**more: Any) -> Any:
        options = BuildOptions(
            corpus=str(write_corpus(PASSAGES)),
            out=str(folder),
            encoder="scripted",
            index="ivf",
            **more,
        )
        return search_as_asked(load_manifest(folder), options, lambda spec, _: encoder).search

    assert asked() == tuned
    assert asked(ivf_probes=2).breadth == load_manifest(folder).search.breadth == 2
    assert asked(autotune_queries="corpus").tuning is not None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"autotune_queries": "corpus"}, "of no use to a flat index"),
        ({"autotune_queries": "corpus", "index": "hybrid"}, "of no use to a flat index"),
        ({"autotune_queries": "/no/such/file", "index": "ivf"}, "cannot be read"),
    ],
)
def test_tuning_that_cannot_be_is_refused_before_anything_is_built(
    options: Any, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        check_tuning(BuildOptions(corpus="c", out="o", **options))


@pytest.mark.parametrize("kind", ["flat", "lexical"])
def test_an_index_without_breadth_is_refused(make_index: Any, encoder: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"this {kind} index has no breadth"):
        tune(make_index(index=kind), encoder)


def test_queries_are_lines_or_the_first_known_key_of_rows(tmp_path: Path) -> None:
    plain, rows = tmp_path / "queries.txt", tmp_path / "queries.jsonl"
    plain.write_text("who?\n\n where? \n")
    rows.write_text("\n".join(map(json.dumps, [{"text": "a", "query": "b"}, {"question": "c"}])))
    assert read_queries(plain) == ["who?", "where?"]
    assert read_queries(rows) == ["b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.jsonl", '{"query": "a"}\nnonsense', r"q\.jsonl:2: no JSON"),
        ("q.jsonl", '{"query": "a"}\n\n{"id": 3}', r"q\.jsonl:3: a row is an object with one of"),
        ("q.txt", "\n \n", "holds no query"),
        ("q.txt", None, "cannot be read"),
    ],
)
def test_queries_that_cannot_be_read_name_the_place(
    tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_queries(tmp_path / name)
