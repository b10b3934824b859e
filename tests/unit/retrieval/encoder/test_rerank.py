import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from ur2.errors import InputError
from ur2.retrieval.encoder.rerank import CrossEncoderScorer, Pair, Reranker
from ur2.retrieval.options import EncoderOptions, ServiceOptions
from ur2.retrieval.service.corpora import Corpora
from ur2.retrieval.service.searcher import Searcher
from ur2.retrieval.service.store import PassageStore
from ur2.types import Passage


class LongestFirst:
    """Scores a pair by the length of its passage."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        self.pairs += pairs
        return np.array([len(text) for _, text in pairs], dtype=np.float32)


def passage(id: str, text: str, title: str = "") -> Passage:
    return Passage(id=id, text=text, title=title, score=0.5)


def test_candidates_are_ordered_by_the_scorer_and_carry_its_score() -> None:
    scorer = LongestFirst()
    found = [(passage("a", "xx"), passage("b", "xxxx")), (), (passage("c", "y", title="t"),)]
    one, none, other = Reranker(scorer, depth=9).rerank(["p", "q", "r"], found)
    assert [(p.id, p.score) for p in one] == [("b", 4.0), ("a", 2.0)]
    assert none == ()
    assert [(p.id, p.title, p.text) for p in other] == [("c", "t", "y")]
    assert scorer.pairs == [("p", "xx"), ("p", "xxxx"), ("r", "t\ny")]


def test_of_equal_scores_what_was_found_first_stays_first() -> None:
    found = [[passage(id, "same") for id in "cab"]]
    (ranked,) = Reranker(LongestFirst(), depth=3).rerank(["q"], found)
    assert [p.id for p in ranked] == ["c", "a", "b"]


def test_a_search_looks_at_depth_candidates_and_returns_top_k(
    make_index: Any, encoder: Any
) -> None:
    texts = [f"river {'long ' * i}" for i in range(30)]
    store = PassageStore(make_index(passages=[passage(f"p{i}", t) for i, t in enumerate(texts)]))
    scorer = LongestFirst()
    (found,) = Searcher(store, encoder, Reranker(scorer, depth=10)).search(["river"], 3)
    seen = sorted((len(text) for _, text in scorer.pairs), reverse=True)
    assert len(seen) == 10
    assert [len(p.text) for p in found] == seen[:3]


@pytest.fixture
def cross_encoder(tmp_path: Path) -> Path:
    """A folder with a random BERT of one output, over a vocabulary of a few words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "bank", "money", "stone"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
        initializer_range=0.5,
    )
    folder = tmp_path / "cross_encoder"
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    return folder


def test_a_cross_encoder_scores_each_pair_as_the_model_does(cross_encoder: Path) -> None:
    pairs = [("river", "river bank"), ("money", "stone"), ("bank", "money money river stone")]
    scores = CrossEncoderScorer(str(cross_encoder), EncoderOptions(), batch_size=2).score(pairs)

    tokenizer = BertTokenizerFast.from_pretrained(cross_encoder)
    model = BertForSequenceClassification.from_pretrained(cross_encoder).eval()
    with torch.no_grad():
        wanted = [
            model(**tokenizer(query, text, return_tensors="pt")).logits.item()
            for query, text in pairs
        ]
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert len(set(wanted)) == 3


def test_a_service_reranks_with_the_model_that_its_options_name(
    make_index: Any, encoder: Any, cross_encoder: Path
) -> None:
    passages = [passage(f"p{i}", f"river {w}") for i, w in enumerate(("bank", "money", "stone"))]
    folder = make_index(passages=passages)
    options = ServiceOptions(reranker=str(cross_encoder), rerank_depth=3)
    corpora = Corpora({"default": folder}, options, load_encoder=lambda spec, _: encoder)
    (found,) = corpora.open().search(["money"], 2)
    scorer = CrossEncoderScorer(str(cross_encoder), options)
    scores = scorer.score([("money", p.text) for p in passages]).tolist()
    assert [p.score for p in found] == pytest.approx(sorted(scores, reverse=True)[:2], abs=1e-5)


def test_a_reranker_that_cannot_be_loaded_is_bad_input(tmp_path: Path, cross_encoder: Path) -> None:
    with pytest.raises(InputError, match=r"reranker '.*nowhere' cannot be loaded"):
        CrossEncoderScorer(str(tmp_path / "nowhere"), EncoderOptions())
    with pytest.raises(InputError, match=r"reranker '.*' cannot be loaded .*nonsense"):
        CrossEncoderScorer(str(cross_encoder), EncoderOptions(device="nonsense"))


def test_a_classifier_of_several_labels_is_no_reranker(cross_encoder: Path) -> None:
    config = json.loads((cross_encoder / "config.json").read_text())
    labels = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (cross_encoder / "config.json").write_text(json.dumps(config | labels))
    (cross_encoder / "model.safetensors").unlink()
    BertForSequenceClassification(BertConfig.from_pretrained(cross_encoder)).save_pretrained(
        cross_encoder
    )
    with pytest.raises(InputError, match="has 2 outputs"):
        CrossEncoderScorer(str(cross_encoder), EncoderOptions())
