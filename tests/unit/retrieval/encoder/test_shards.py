from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ur2.errors import InputError
from ur2.retrieval.corpus.file import CorpusWriter
from ur2.retrieval.encoder.shards import Encoding
from ur2.retrieval.encoder.vectors import shard_path
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import BuildOptions

SPEC = EncoderSpec(name="scripted")
TEXTS = [f"{'long ' * (7 * n % 11)}text {n}" for n in range(23)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.arrow", TEXTS)


def write_corpus(path: Path, texts: Sequence[str]) -> Path:
    with CorpusWriter(path, sha256=f"hash of {len(texts)}") as writer:
        writer.append([str(n) for n in range(len(texts))], [""] * len(texts), texts)
        writer.finish()
    return path


def options(**more: Any) -> BuildOptions:
    return BuildOptions.load(
        {"corpus": "c", "out": "o", "shard_size": 5, "num_threads": 1, **more}, where="test"
    )


def encoding(corpus: Path, folder: Path, encoder: Any, **more: Any) -> Encoding:
    return Encoding(corpus, SPEC, folder, options(**more), lambda spec, _: encoder)


@pytest.mark.parametrize("shard_size", [1, 5, 23, 100])
def test_vectors_stand_in_the_order_of_the_passages(
    corpus: Path, tmp_path: Path, encoder: Any, shard_size: int
) -> None:
    found = encoding(corpus, tmp_path / "v", encoder, shard_size=shard_size).run()
    np.testing.assert_array_equal(found[:], encoder.encode_passages(TEXTS))


def test_passages_of_a_shard_are_encoded_from_long_to_short(
    corpus: Path, tmp_path: Path, encoder: Any
) -> None:
    encoding(corpus, tmp_path / "v", encoder).run()
    for start in range(0, 23, 5):
        lengths = [len(text) for text in encoder.encoded[start : start + 5]]
        assert lengths == sorted(lengths, reverse=True)


def test_only_missing_shards_are_encoded_and_the_bytes_are_the_same(
    corpus: Path, tmp_path: Path, encoder: Any
) -> None:
    encoding(corpus, tmp_path / "whole", encoder).run()
    encoder.interrupt_after = 3
    with pytest.raises(KeyboardInterrupt):
        encoding(corpus, tmp_path / "v", encoder).run()
    encoder.interrupt_after = None
    done = {path: path.stat().st_ino for path in (tmp_path / "v").glob("*.npy")}
    assert len(done) == 3
    encoder.encoded.clear()
    encoding(corpus, tmp_path / "v", encoder).run()
    assert sorted(encoder.encoded) == sorted(TEXTS[15:])
    assert all(path.stat().st_ino == inode for path, inode in done.items())
    assert content(tmp_path / "v") == content(tmp_path / "whole")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_complete_vectors_need_no_encoder(corpus: Path, tmp_path: Path, encoder: Any) -> None:
    before = encoding(corpus, tmp_path / "v", encoder).run()[:]

    def load(*_: Any) -> Any:
        raise AssertionError("loaded in vain")

    again = Encoding(corpus, SPEC, tmp_path / "v", options(shard_size=7), load)
    np.testing.assert_array_equal(again.run()[:], before)


@pytest.mark.parametrize("change", ["corpus", "encoder", "type", "dimension"])
def test_vectors_of_something_else_are_made_anew(
    corpus: Path, tmp_path: Path, encoder: Any, change: str
) -> None:
    folder, spec, more, texts = tmp_path / "v", SPEC, {}, TEXTS
    encoding(corpus, folder, encoder).run()
    if change == "corpus":
        texts = TEXTS[:7]
        corpus = write_corpus(corpus, texts)
    elif change == "encoder":
        spec = encoder.spec = EncoderSpec(name="scripted", revision="2")
    elif change == "type":
        more = {"vector_type": "float16"}
    else:
        encoder.dimension = 8
        shard_path(folder, 0).unlink()
    encoder.encoded.clear()
    found = Encoding(corpus, spec, folder, options(**more), lambda *_: encoder).run()
    assert sorted(encoder.encoded) == sorted(texts)
    assert (len(found), found.dimension) == (len(texts), encoder.dimension)
    assert len(list(folder.glob("*.npy"))) == -(-len(texts) // 5)


def test_a_folder_of_something_else_is_left_alone(
    corpus: Path, tmp_path: Path, encoder: Any
) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "0.npy").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        encoding(corpus, tmp_path / "v", encoder)
    assert (tmp_path / "v" / "0.npy").read_text() == "mine"
