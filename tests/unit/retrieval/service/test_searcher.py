from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ur2.errors import InputError
from ur2.retrieval.encoder.sentence_encoder import Encoder
from ur2.retrieval.index.fusion import reciprocal_rank_fusion
from ur2.retrieval.index.lexical import LexicalIndex
from ur2.retrieval.index.nearest import InMemory, build_index
from ur2.retrieval.manifest import EncoderSpec, load_manifest
from ur2.retrieval.options import ServiceOptions
from ur2.retrieval.service.searcher import Searcher
from ur2.retrieval.service.store import LEXICAL_FOLDER, VECTORS_FILE, PassageStore
from ur2.types import Passage

PASSAGES = [
    Passage(id="rome", title="Rome", text="The river Tiber runs through Rome."),
    Passage(id="paris", title="Paris", text="The river Seine runs through Paris."),
    Passage(id="bank", text="A bank lends money."),
    Passage(id="money", title="Money", text="Coins and notes."),
]


def ids(found: tuple[Passage, ...]) -> list[str]:
    return [passage.id for passage in found]


def test_an_index_of_words_is_searched_without_an_encoder(make_index: Any, encoder: Any) -> None:
    encoder.fail_with = AssertionError("nothing is encoded")
    folder = make_index(passages=PASSAGES, index="lexical")
    assert not (folder / VECTORS_FILE).exists()
    rivers, money, nothing = Searcher(PassageStore(folder)).search(
        ["rivers running through Paris", "lending money", "xyzzy"], 3
    )
    assert ids(rivers) == ["paris", "rome"]
    assert ids(money) == ["bank", "money"]
    assert rivers[0].score > rivers[1].score > 0
    assert nothing == ()


def test_titles_are_searched_too(make_index: Any) -> None:
    folder = make_index(passages=[Passage(id="t", title="Zurich", text="A city.")], index="lexical")
    assert ids(Searcher(PassageStore(folder)).search(["zurich"], 1)[0]) == ["t"]


@pytest.mark.parametrize("depth", [2, 30])
def test_a_hybrid_index_fuses_what_words_and_vectors_find(
    make_index: Any, encoder: Any, depth: int
) -> None:
    passages = [Passage(id=f"p{i}", text=f"fact {i} of {i % 7} and {i % 5}") for i in range(30)]
    folder = make_index(passages=passages, index="hybrid", fusion_k=5, fusion_depth=depth)
    queries = ["fact 3", "4 and 2", "fact 12 of 5"]
    found = Searcher(PassageStore(folder), encoder).search(queries, 2)

    query_QD = encoder.encode_queries(queries)
    encoded = InMemory(encoder.encode_passages([p.text for p in passages]))
    spec = load_manifest(folder).recipe.index.vectors
    assert spec is not None
    _, dense = build_index(spec, encoded).search(query_QD, depth)
    _, words = LexicalIndex(folder / LEXICAL_FOLDER).search(queries, depth)
    score_QF, row_QF = reciprocal_rank_fusion([dense, words], 2, k=5)
    assert [ids(answers) for answers in found] == [[f"p{row}" for row in rows] for rows in row_QF]
    np.testing.assert_allclose([[p.score for p in answers] for answers in found], score_QF)


def test_an_index_of_vectors_needs_the_encoder_that_made_it(make_index: Any, encoder: Any) -> None:
    store = PassageStore(make_index())
    with pytest.raises(InputError, match="searching it needs their encoder"):
        Searcher(store)
    encoder.spec = EncoderSpec(name="another")
    with pytest.raises(InputError, match="made with encoder"):
        Searcher(store, encoder)


@pytest.mark.parametrize("kind", ["lexical", "hybrid", "ivf", "hnsw"])
async def test_every_kind_is_served(open_service: Any, make_index: Any, kind: str) -> None:
    folder = make_index(passages=PASSAGES, index=kind)
    service = open_service(ServiceOptions(), {"default": folder})
    (found,) = await service.search(["The river Seine runs through Paris."], 1)
    await service.close()
    assert len(found) == 1
    if kind == "lexical":
        assert ids(found) == ["paris"]


def test_words_of_another_index_are_an_error(
    make_index: Any, encoder: Encoder, tmp_path: Path
) -> None:
    folder = make_index("one", passages=PASSAGES, index="lexical")
    other = make_index("other", passages=PASSAGES[:2], index="lexical")
    (folder / LEXICAL_FOLDER).rename(tmp_path / "away")
    (other / LEXICAL_FOLDER).rename(folder / LEXICAL_FOLDER)
    with pytest.raises(InputError, match="number of passages of words is 2, the manifest says 4"):
        PassageStore(folder)
    (folder / LEXICAL_FOLDER).rename(tmp_path / "gone")
    with pytest.raises(InputError, match="build the index again"):
        PassageStore(folder)
