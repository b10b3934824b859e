"""Scripted parts of retrieval: an encoder without a model, and small indexes made with it."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ur2.retrieval.build import build
from ur2.retrieval.encoder.sentence_encoder import Vectors
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import BuildOptions, ServiceOptions
from ur2.retrieval.service.batching import RetrievalService
from ur2.retrieval.service.corpora import Corpora
from ur2.types import Passage


class ScriptedEncoder:
    """Equal texts get equal vectors, others random ones; it can be held, and can fail."""

    def __init__(self, spec: EncoderSpec | None = None, dimension: int = 16) -> None:
        self.spec = spec or EncoderSpec(name="scripted")
        self.dimension = dimension
        self.query_batches: list[list[str]] = []
        self.encoded: list[str] = []
        self.interrupt_after: int | None = None
        self.fail_with: BaseException | None = None
        self.entered = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def encode_queries(self, queries: Sequence[str]) -> Vectors:
        self.query_batches.append(list(queries))
        self.entered.set()
        assert self.released.wait(timeout=10)
        if self.fail_with is not None:
            raise self.fail_with
        return self._encode(queries)

    def encode_passages(self, passages: Sequence[str]) -> Vectors:
        if self.interrupt_after == 0:
            raise KeyboardInterrupt
        if self.interrupt_after is not None:
            self.interrupt_after -= 1
        self.encoded += passages
        return self._encode(passages)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            row = np.random.default_rng(seed).standard_normal(self.dimension)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32).reshape(-1, self.dimension)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sentence-transformers model of random weights, 32 wide."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=128,
        )
        BertModel(config).save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert"), max_seq_length=128), Pooling(32)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny"))
    return folder / "tiny"


WriteCorpus = Callable[[Iterable[Passage]], Path]
MakeIndex = Callable[..., Path]


@pytest.fixture
def encoder() -> ScriptedEncoder:
    return ScriptedEncoder()


@pytest.fixture
def passages() -> list[Passage]:
    return [Passage(id=f"p{i}", text=f"fact {i}") for i in range(20)]


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    def write(passages: Iterable[Passage]) -> Path:
        path = tmp_path / "passages.jsonl"
        rows = ({"id": p.id, "title": p.title, "text": p.text} for p in passages)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_index(
    tmp_path: Path,
    write_corpus: WriteCorpus,
    passages: list[Passage],
    encoder: ScriptedEncoder,
) -> MakeIndex:
    def make(name: str = "index", passages: list[Passage] = passages, **options: object) -> Path:
        tree = {"corpus": str(write_corpus(passages)), "out": str(tmp_path / name)}
        loaded = BuildOptions.load({**tree, "encoder": "scripted", **options}, where="test")
        build(loaded, load_encoder=lambda spec, _: encoder)
        return tmp_path / name

    return make


@pytest.fixture
def open_service(make_index: MakeIndex, encoder: ScriptedEncoder) -> Callable[..., Any]:
    """Makes a service of `folders`, by default of the index that `make_index` makes."""

    def open_all(
        options: ServiceOptions, folders: Mapping[str, Path] | None = None
    ) -> RetrievalService:
        folders = folders or {"default": make_index()}
        corpora = Corpora(folders, options, load_encoder=lambda spec, _: encoder)
        for name in folders:
            corpora.open(name)
        return RetrievalService(corpora, options)

    return open_all
