import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ur2.errors import ComponentError, InputError, run_entry
from ur2.retrieval.build import build, main, up_to_date
from ur2.retrieval.corpus.__main__ import make
from ur2.retrieval.corpus.options import CorpusOptions
from ur2.retrieval.manifest import MANIFEST_FILE, load_manifest
from ur2.retrieval.options import BuildOptions
from ur2.retrieval.service.store import CORPUS_FILE, VECTORS_FILE, PassageStore
from ur2.types import Passage


def options(corpus: Path, out: Path, **more: Any) -> BuildOptions:
    return BuildOptions(corpus=str(corpus), out=str(out), encoder="scripted", **more)


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["build", *arguments])
    with pytest.raises(SystemExit) as raised:
        run_entry(main)
    return raised.value.code


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_manifest_says_what_made_the_index(make_index: Any, kind: str) -> None:
    manifest = load_manifest(make_index(index=kind, hnsw_links=8, passage_prefix="passage: "))
    assert (manifest.num_passages, manifest.dimension) == (20, 16)
    assert manifest.recipe.encoder.passage_prefix == "passage: "
    assert manifest.recipe.index.kind == kind
    assert manifest.parameters.get("links") == (8 if kind == "hnsw" else None)
    assert manifest.versions["faiss"]


def test_only_the_same_recipe_is_up_to_date(make_index: Any, write_corpus: Any) -> None:
    out = make_index()
    corpus = out.parent / "passages.jsonl"
    assert up_to_date(options(corpus, out)) == load_manifest(out)
    assert up_to_date(options(corpus, out, batch_size=7, device="auto")) is not None
    assert up_to_date(options(corpus, out, query_prefix="q: ")) is None
    assert up_to_date(options(corpus, out, index="hnsw")) is None
    assert up_to_date(options(corpus, out.parent / "elsewhere")) is None
    write_corpus([Passage(id="a", text="another corpus")])
    assert up_to_date(options(corpus, out)) is None


def test_a_changed_corpus_replaces_the_index(make_index: Any) -> None:
    make_index()
    folder = make_index(passages=[Passage(id="a", text="another corpus")])
    assert len(PassageStore(folder)) == 1
    assert not list(folder.parent.glob(".index*"))


def test_an_interrupted_build_leaves_what_was_there_and_goes_on(
    make_index: Any, encoder: Any, write_corpus: Any
) -> None:
    folder = make_index()
    corpus = write_corpus([Passage(id=f"n{i}", text=f"another {i}") for i in range(10)])
    asked = options(corpus, folder, shard_size=3)
    encoder.interrupt_after = 2  # shards
    with pytest.raises(KeyboardInterrupt):
        build(asked, load_encoder=lambda spec, _: encoder)
    assert len(PassageStore(folder)) == 20
    encoder.interrupt_after = None
    build(asked, load_encoder=lambda spec, _: encoder)
    assert sorted(encoder.encoded[20:]) == sorted(f"another {i}" for i in range(10))
    assert len(PassageStore(folder)) == 10
    assert not list(folder.parent.glob(".index*"))


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file may grow larger, which tells programs the like of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("num_bytes", "chosen"),
    [(4096, {}), (20_000, {}), (20_000, {"shard_size": 100})],
    ids=["passages", "vectors", "index"],
)
def test_a_full_disk_is_an_error_after_which_the_build_goes_on(
    encoder: Any, write_corpus: Any, num_bytes: int, chosen: dict[str, Any]
) -> None:
    corpus = write_corpus(Passage(id=f"p{i}", text=f"fact {i}") for i in range(400))
    asked = options(corpus, corpus.with_name("index"), **chosen)
    with (
        room_for(num_bytes),
        pytest.raises(ComponentError, match=r"could not be written .*the same command goes on"),
    ):
        build(asked, lambda spec, _: encoder)
    build(asked, lambda spec, _: encoder)
    assert len(PassageStore(Path(asked.out))) == 400
    assert not list(corpus.parent.glob(".index*"))


def test_nothing_of_an_interrupted_build_of_another_kind_is_left(
    make_index: Any, encoder: Any, write_corpus: Any, tmp_path: Path
) -> None:
    make_index("hybrid", index="hybrid")
    (tmp_path / ".index.partial").mkdir()
    (tmp_path / "hybrid").rename(tmp_path / ".index.partial" / "made")
    folder = make_index()
    assert {path.name for path in folder.iterdir()} == {CORPUS_FILE, VECTORS_FILE, MANIFEST_FILE}
    assert len(PassageStore(folder)) == 20


def test_an_index_beside_its_sources_is_up_to_date(make_index: Any, encoder: Any) -> None:
    out = make_index()
    asked = options(out.parent, out)
    build(asked, lambda spec, _: encoder)
    assert up_to_date(asked) == load_manifest(out)


def test_a_corpus_file_is_taken_as_it_is_and_makes_the_same_index(
    write_corpus: Any, passages: list[Passage], tmp_path: Path, encoder: Any
) -> None:
    raw, ready = write_corpus(passages), tmp_path / "passages" / CORPUS_FILE
    make(CorpusOptions.load({"in": str(raw), "out": str(ready)}, where="test"))
    for number, corpus in enumerate((ready, ready.parent)):
        out = tmp_path / str(number)
        build(options(corpus, out), load_encoder=lambda spec, _: encoder)
        assert (out / CORPUS_FILE).samefile(ready)
        assert up_to_date(options(raw, out)) == load_manifest(out)


def test_kept_vectors_serve_another_kind_of_index(
    make_index: Any, encoder: Any, tmp_path: Path
) -> None:
    kept = str(tmp_path / "kept")
    make_index("one", vectors=kept)
    encoder.encoded.clear()
    folder = make_index("other", index="hnsw", vectors=kept)
    assert encoder.encoded == []
    query_QD = encoder.encode_queries(["fact 3"])
    assert PassageStore(folder).search(["fact 3"], query_QD, 1)[0][0].id == "p3"


def test_an_encoder_is_loaded_only_for_a_sound_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "bad.jsonl"
    corpus.write_text("no json")

    def load(*_: Any) -> Any:
        raise AssertionError("loaded too early")

    with pytest.raises(InputError, match=r"bad\.jsonl:1"):
        build(options(corpus, tmp_path / "out"), load_encoder=load)
    assert not (tmp_path / "out").exists()


def test_the_command_says_when_there_is_nothing_to_do(
    make_index: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_index()
    corpus = out.parent / "passages.jsonl"
    monkeypatch.setattr(
        sys, "argv", ["build", f"corpus={corpus}", f"out={out}", "encoder=scripted"]
    )
    main()
    assert "is up to date: 20 passages" in capsys.readouterr().out


def test_a_folder_of_something_else_is_never_overwritten(
    tmp_path: Path,
    write_corpus: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = write_corpus([Passage(id="a", text="words")])
    assert exit_code(monkeypatch, f"corpus={corpus}", f"out={tmp_path}") == 2
    assert "exists and is no index" in capsys.readouterr().err
    assert corpus.exists()


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("index=ivf ivf_lists=9", "ivf_lists=9 cannot be learnt from 1 passages"),
        ("index=tree", "'index'"),
        ("device=nonsense", "device 'nonsense'"),
        ("corpus=/no/such/file", "corpus /no/such/file cannot be read"),
        ("batch_size=0", "'batch_size'"),
        ("bach_size=8", "did you mean 'batch_size'?"),
    ],
)
def test_bad_input_ends_the_command_with_2_and_one_message(
    tmp_path: Path,
    write_corpus: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    complaint: str,
) -> None:
    corpus = write_corpus([Passage(id="a", text="words")])
    out = tmp_path / "out"
    arguments = (f"corpus={corpus}", f"out={out}", "num_threads=1", *argument.split())
    code = exit_code(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert code == 2
    message = error[error.index("error: ") :]
    assert "Traceback" not in error
    assert complaint in message
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
