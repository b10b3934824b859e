import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from ur2.retrieval.encoder import packed
from ur2.retrieval.encoder.bert import bert_of, read_bert
from ur2.retrieval.encoder.sentence_encoder import BUNDLED, SentenceTransformerEncoder
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
@pytest.mark.parametrize("short", [packed.SHORT, 4])
def test_packed_texts_get_the_vectors_that_the_model_gives_them(
    folder: Path,
    tmp_path: Path,
    pooling: str,
    max_tokens: int,
    short: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "MAX_TOKENS", max_tokens)
    monkeypatch.setattr(packed, "SHORT", short)
    model = make(folder, pooling)
    expected = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    model.save(str(tmp_path))
    for bert in (bert_of(model), read_bert(tmp_path)):
        assert bert is not None
        got = packed.PackedEncoder(bert, torch.float32).encode(TEXTS).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_model_that_pools_otherwise_is_left_alone(folder: Path, tmp_path: Path) -> None:
    model = make(folder, "max")
    assert bert_of(model) is None
    model.save(str(tmp_path))
    assert read_bert(tmp_path) is None


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"model_type": "roberta"}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"position_embedding_type": "relative_key"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}),
        ("modules.json", None),
        ("tokenizer.json", None),
        ("model.safetensors", None),
    ],
)
def test_a_folder_of_something_else_is_left_alone(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any] | None
) -> None:
    make(folder, "mean").save(str(tmp_path))
    assert read_bert(tmp_path) is not None
    path = tmp_path / file
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_bert(tmp_path) is None


def test_folders_of_old_versions_are_read_too(folder: Path, tmp_path: Path) -> None:
    model = make(folder, "cls")
    model.save(str(tmp_path))
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    flags = {f"pooling_mode_{mode}": mode == "cls_token" for mode in modes}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9}))
    bert = read_bert(tmp_path)
    assert bert is not None
    model.max_seq_length = 9
    expected = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    got = packed.PackedEncoder(bert, torch.float32).encode(TEXTS).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_no_texts_are_no_work(folder: Path) -> None:
    bert = bert_of(make(folder, "mean"))
    assert bert is not None
    assert packed.PackedEncoder(bert, torch.float32).encode([]).shape == (0, 32)


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.9999)])
def test_the_bundled_model_says_in_short_arithmetic_what_it_says_in_full(
    precision: Any, least: float
) -> None:
    model = SentenceTransformer(BUNDLED["minilm"].folder(), device="cpu")
    texts = ["Paris", "Which country is Osaka in?", "word " * 300]
    expected = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    options = EncoderOptions(precision=precision, num_threads=1)
    encoder = SentenceTransformerEncoder(EncoderSpec(name="minilm"), options)
    for vector_ND in (encoder.encode_queries(texts), encoder.encode_passages(texts)):
        assert vector_ND.dtype == np.float32
        assert (vector_ND * expected).sum(axis=1).min() > least


def test_the_bundled_model_is_read_without_its_library() -> None:
    code = """
import sys
from ur2.retrieval.encoder.sentence_encoder import BUNDLED, SentenceTransformerEncoder
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import EncoderOptions
from ur2.retrieval.service.store import PassageStore
encoder = SentenceTransformerEncoder(EncoderSpec(name="minilm"), EncoderOptions(num_threads=1))
assert encoder.encode_queries(["Paris"]).shape == (1, encoder.dimension)
heavy = {"sentence_transformers", "transformers", "sklearn", "scipy", "numba"}
print(sorted(heavy & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
