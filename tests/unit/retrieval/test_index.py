from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.index import NO_ROW, create, load
from ur2.retrieval.manifest import IndexSpec

FLAT = IndexSpec(kind="flat")
HNSW = IndexSpec(kind="hnsw", parameters={"links": 16, "build_breadth": 80, "search_breadth": 64})


def unit_rows(rng: np.random.Generator, num: int, dimension: int) -> NDArray[np.float32]:
    rows = rng.standard_normal((num, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    vector_ND: NDArray[np.float32], query_QD: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    score_QN = query_QD.astype(np.float64) @ vector_ND.astype(np.float64).T
    return np.argsort(-score_QN, axis=1)[:, :k]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 200), k=st.integers(1, 30))
def test_flat_equals_brute_force(seed: int, num: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vector_ND, query_QD = unit_rows(rng, num, 24), unit_rows(rng, 5, 24)
    index = create(FLAT, 24)
    index.add(vector_ND[: num // 2])
    index.add(vector_ND[num // 2 :])
    score_QK, row_QK = index.search(query_QD, k)
    np.testing.assert_array_equal(row_QK, brute_force(vector_ND, query_QD, k))
    np.testing.assert_allclose(
        score_QK, np.take_along_axis(query_QD @ vector_ND.T, row_QK, axis=1), atol=1e-5
    )


def test_hnsw_finds_nearly_all_of_what_is_nearest() -> None:
    rng = np.random.default_rng(0)
    vector_ND, query_QD = unit_rows(rng, 2000, 32), unit_rows(rng, 100, 32)
    index = create(HNSW, 32)
    index.add(vector_ND)
    _, row_QK = index.search(query_QD, 10)
    exact_QK = brute_force(vector_ND, query_QD, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(row_QK, exact_QK, strict=True)])
    assert recall >= 0.95


def test_hnsw_answers_more_than_its_search_breadth() -> None:
    rng = np.random.default_rng(0)
    index = create(HNSW, 32)
    index.add(unit_rows(rng, 500, 32))
    _, row_QK = index.search(unit_rows(rng, 3, 32), 200)
    assert (row_QK != NO_ROW).all()


@pytest.mark.parametrize("spec", [FLAT, HNSW])
def test_a_saved_index_answers_the_same(tmp_path: Path, spec: IndexSpec) -> None:
    rng = np.random.default_rng(1)
    query_QD = unit_rows(rng, 4, 16)
    index = create(spec, 16)
    index.add(unit_rows(rng, 300, 16))
    index.save(tmp_path / "vectors")
    loaded = load(tmp_path / "vectors")
    assert (len(loaded), loaded.dimension) == (300, 16)
    for before, after in zip(index.search(query_QD, 5), loaded.search(query_QD, 5), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["ivf", "lexical", "hybrid"])
def test_a_kind_that_is_not_available_says_which_are(kind: str) -> None:
    with pytest.raises(InputError, match=f"index={kind} is not available yet.*flat, hnsw"):
        create(IndexSpec.model_validate({"kind": kind}), 8)


@pytest.mark.parametrize("content", [None, b"", b"no index"])
def test_a_missing_or_damaged_index_says_to_build_again(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "vectors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="build the index again"):
        load(path)
