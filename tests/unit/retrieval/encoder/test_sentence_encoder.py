import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ur2.errors import InputError
from ur2.retrieval.encoder.sentence_encoder import SentenceTransformerEncoder, devices, encoder_spec
from ur2.retrieval.manifest import EncoderSpec
from ur2.retrieval.options import EncoderOptions

TEXTS = ["one", "two words", "and a somewhat longer text " * 5, "three more words"]


def load(
    folder: Path, precision: str = "float32", device: str = "cpu", **spec: str
) -> SentenceTransformerEncoder:
    tree = {"precision": precision, "num_threads": 1, "device": device}
    options = EncoderOptions.load(tree, where="test")
    return SentenceTransformerEncoder(EncoderSpec(name=str(folder), **spec), options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_vectors_are_what_the_model_says_of_each_text_alone(
    tiny_encoder: Path, precision: str
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    alone = np.stack([model.encode(text, normalize_embeddings=True) for text in TEXTS])
    encoder = load(tiny_encoder, precision)
    vector_ND = encoder.encode_passages(TEXTS)
    assert vector_ND.dtype == np.float32
    assert vector_ND.shape == (4, encoder.dimension) == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(vector_ND, axis=1), 1, atol=1e-6)
    cosine_N = (vector_ND * alone).sum(axis=1)
    assert (cosine_N > (1 - 1e-6 if precision == "float32" else 1 - 1e-4)).all()


def test_queries_and_passages_get_their_own_instructions(tiny_encoder: Path) -> None:
    plain = load(tiny_encoder)
    told = load(tiny_encoder, query_prefix="query: ", passage_prefix="passage: ")
    np.testing.assert_array_equal(
        told.encode_queries(["one"]), plain.encode_passages(["query: one"])
    )
    np.testing.assert_array_equal(
        told.encode_passages(["one"]), plain.encode_queries(["passage: one"])
    )


def test_an_encoder_says_which_weights_it_has(tiny_encoder: Path, tmp_path: Path) -> None:
    before = load(tiny_encoder).spec
    assert before == encoder_spec(str(tiny_encoder), query_prefix="", passage_prefix="")
    assert before.revision.startswith("sha256:")
    other = shutil.copytree(tiny_encoder, tmp_path / "other")
    same = encoder_spec(str(other), query_prefix=None, passage_prefix=None)
    assert same.revision == before.revision
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load(other).spec.revision != before.revision


def test_the_bundled_encoder_has_the_version_of_its_package() -> None:
    assert encoder_spec("minilm", query_prefix=None, passage_prefix=None) == EncoderSpec(
        name="minilm", revision="0.1.0"
    )


@pytest.mark.parametrize(
    ("name", "full_name", "query_prefix", "passage_prefix"),
    [
        ("intfloat/e5-base-v2", "intfloat/e5-base-v2", "query: ", "passage: "),
        ("e5-base-v2", "intfloat/e5-base-v2", "query: ", "passage: "),
        ("/models/E5-base-v2", "/models/E5-base-v2", "query: ", "passage: "),
        (
            "bge-large-en-v1.5",
            "BAAI/bge-large-en-v1.5",
            "Represent this sentence for searching relevant passages: ",
            "",
        ),
        ("someone/model", "someone/model", "", ""),
    ],
)
def test_known_encoders_come_with_their_instructions(
    name: str, full_name: str, query_prefix: str, passage_prefix: str
) -> None:
    spec = encoder_spec(name, query_prefix=None, passage_prefix=None)
    assert spec == EncoderSpec(
        name=full_name, query_prefix=query_prefix, passage_prefix=passage_prefix
    )
    asked = encoder_spec(name, revision="abc", query_prefix="q", passage_prefix="")
    assert (asked.revision, asked.query_prefix, asked.passage_prefix) == ("abc", "q", "")


def test_there_is_a_process_per_gpu_or_as_many_as_asked_for() -> None:
    assert devices("cpu", 0) == ["cpu"]
    assert devices("cpu", 2) == ["cpu", "cpu"]
    assert devices("cuda:1", 0) == ["cuda:1"]


def test_an_encoder_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path / "empty")


def test_an_encoder_whose_weights_are_cut_is_an_error(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("device", ["mps", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_an_error(tiny_encoder: Path, device: str) -> None:
    if device == "mps" and torch.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(InputError, match="is not available here"):
        load(tiny_encoder, device=device)
