from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from ur2.retrieval import packed
from ur2.retrieval.encoder import SentenceTransformerEncoder
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import EncoderOptions

WORDS = ["the", "capital", "of", "france", "is", "paris", "and", "that", "japan", "tokyo"]
TEXTS = [
    "",
    "paris",
    "the capital of japan",
    *(" ".join(WORDS[:n]) for n in range(1, 10)),
    "a " * 99,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT of random weights that reads at most sixteen tokens."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def make(folder: Path, pooling: str) -> SentenceTransformer:
    transformer = Transformer(str(folder))
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling)])
    return model.eval()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("max_tokens", [packed.MAX_TOKENS, 20])
def test_packed_texts_get_the_vectors_that_the_model_gives_them(
    folder: Path, pooling: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "MAX_TOKENS", max_tokens)
    model = make(folder, pooling)
    assert packed.supports(model)
    expected = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    got = packed.PackedEncoder(model).encode(TEXTS).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_model_that_pools_otherwise_is_left_alone(folder: Path) -> None:
    assert not packed.supports(make(folder, "max"))


def test_no_texts_are_no_work(folder: Path) -> None:
    assert packed.PackedEncoder(make(folder, "mean")).encode([]).shape == (0, 32)


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
def test_a_query_and_a_passage_of_the_same_words_get_the_same_vector(
    precision: Any, least: float
) -> None:
    options = EncoderOptions(precision=precision, num_threads=1)
    encoder = SentenceTransformerEncoder(EncoderSpec(name="minilm"), options)
    texts = ["Paris", "Which country is Osaka in?", "word " * 300]
    queries, passages = encoder.encode_queries(texts), encoder.encode_passages(texts)
    assert queries.dtype == np.float32
    assert (queries * passages).sum(axis=1).min() > least
