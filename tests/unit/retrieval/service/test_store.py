import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ur2.errors import InputError
from ur2.retrieval.manifest import EncoderSpec, StoreManifest, load_manifest
from ur2.retrieval.service.store import CORPUS_FILE, VECTORS_FILE, PassageStore
from ur2.types import Passage


def test_each_passage_is_found_by_its_own_words(
    make_index: Any, encoder: Any, passages: list[Passage]
) -> None:
    store = PassageStore(make_index())
    queries = [p.text for p in passages]
    found = store.search(queries, encoder.encode_queries(queries), 3)
    assert [(best.id, best.text) for best, *_ in found] == [(p.id, p.text) for p in passages]
    assert all(len(answers) == 3 for answers in found)
    assert all(a.score >= b.score for answers in found for a, b in pairwise(answers))
    assert found[0][0].score == pytest.approx(1.0, abs=1e-5)


def test_asking_for_more_than_there_is_returns_what_there_is(make_index: Any, encoder: Any) -> None:
    found = PassageStore(make_index()).search([], encoder.encode_queries(["fact 1"]), 99)
    assert len(found[0]) == 20


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: m.model_copy(update={"dimension": 99}), "dimension is 16"),
        (lambda m: m.model_copy(update={"num_passages": 21}), "number of passages is 20"),
        (
            lambda m: m.model_copy(
                update={"recipe": m.recipe.model_copy(update={"corpus_sha256": "other"})}
            ),
            "the manifest says other",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_an_error(
    make_index: Any, change: Callable[[StoreManifest], StoreManifest], complaint: str
) -> None:
    folder = make_index()
    change(load_manifest(folder)).save(folder)
    with pytest.raises(InputError, match=f"do not belong together.*{complaint}"):
        PassageStore(folder)


@pytest.mark.parametrize("part", [CORPUS_FILE, VECTORS_FILE])
def test_a_part_of_another_index_is_an_error(
    make_index: Any, passages: list[Passage], part: str
) -> None:
    folder, other = make_index("one"), make_index("other", passages[:-1])
    shutil.copy(other / part, folder / part)
    with pytest.raises(InputError, match="do not belong together"):
        PassageStore(folder)


def test_another_encoder_or_dimension_is_an_error(make_index: Any, encoder: Any) -> None:
    store = PassageStore(make_index())
    store.check_encoder(encoder)
    encoder.dimension = 8
    with pytest.raises(InputError, match=r"of dimension 16, not with .* of dimension 8"):
        store.check_encoder(encoder)
    encoder.dimension = 16
    encoder.spec = EncoderSpec(name="scripted", query_prefix="query: ")
    with pytest.raises(InputError, match="query_prefix='query: '"):
        store.check_encoder(encoder)


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m ur2\.retrieval\.build corpus=PATH out="):
        PassageStore(tmp_path)


def test_an_unreadable_manifest_names_the_key(make_index: Any) -> None:
    folder = make_index()
    (folder / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="format"):
        load_manifest(folder)
