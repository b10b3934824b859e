from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ur2.errors import InputError
from ur2.retrieval.index.fusion import NO_ROW
from ur2.retrieval.index.nearest import InMemory, build_index, load, sample_rows
from ur2.retrieval.manifest import VectorSpec

FLAT = VectorSpec(kind="flat")
HNSW = VectorSpec(kind="hnsw", parameters={"links": 16, "build_breadth": 80})
IVF = VectorSpec(kind="ivf", parameters={"lists": 8})
IVF_PQ = VectorSpec(kind="ivf_pq", parameters={"lists": 4, "bytes": 8, "rotate": 1})
UNROTATED = IVF_PQ.model_copy(update={"parameters": {**IVF_PQ.parameters, "rotate": 0}})
SPECS = [
    FLAT,
    HNSW,
    IVF,
    IVF_PQ,
    *(s.model_copy(update={"quantiser": q}) for s in (FLAT, HNSW, IVF) for q in ("fp16", "sq8")),
]


def unit_rows(rng: np.random.Generator, num: int, dimension: int) -> NDArray[np.float32]:
    rows = rng.standard_normal((num, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    vector_ND: NDArray[np.float32], query_QD: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    score_QN = query_QD.astype(np.float64) @ vector_ND.astype(np.float64).T
    return np.argsort(-score_QN, axis=1)[:, :k]


def name(spec: VectorSpec) -> str:
    return f"{spec.kind}-{spec.quantiser}"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 200), k=st.integers(1, 30))
def test_flat_equals_brute_force(seed: int, num: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vector_ND, query_QD = unit_rows(rng, num, 24), unit_rows(rng, 5, 24)
    score_QK, row_QK = build_index(FLAT, InMemory(vector_ND)).search(query_QD, k)
    np.testing.assert_array_equal(row_QK, brute_force(vector_ND, query_QD, k))
    np.testing.assert_allclose(
        score_QK, np.take_along_axis(query_QD @ vector_ND.T, row_QK, axis=1), atol=1e-5
    )


def test_an_index_of_many_reads_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ur2.retrieval.index.nearest.ROWS_PER_ROUND", 7)
    rng = np.random.default_rng(0)
    vector_ND, query_QD = unit_rows(rng, 100, 24), unit_rows(rng, 5, 24)
    seen: list[tuple[str, int, int]] = []
    index = build_index(FLAT, InMemory(vector_ND), progress=lambda *at: seen.append(at))
    assert (index.search(query_QD, 9)[1] == brute_force(vector_ND, query_QD, 9)).all()
    assert seen[0] == ("indexing", 7, 100)
    assert seen[-1] == ("indexing", 100, 100)


def test_visiting_every_list_or_the_whole_graph_finds_what_is_nearest() -> None:
    rng = np.random.default_rng(0)
    vector_ND, query_QD = unit_rows(rng, 1000, 32), unit_rows(rng, 50, 32)
    exact_QK = brute_force(vector_ND, query_QD, 10)
    ivf = build_index(IVF, InMemory(vector_ND))
    assert (ivf.search(query_QD, 10, breadth=8)[1] == exact_QK).all()
    assert (ivf.search(query_QD, 10, breadth=1)[1] != exact_QK).any()
    hnsw = build_index(HNSW, InMemory(vector_ND))
    assert (hnsw.search(query_QD, 10, breadth=1000)[1] == exact_QK).mean() > 0.99
    assert (hnsw.search(query_QD, 10, breadth=10)[1] != exact_QK).any()


def test_hnsw_answers_more_than_its_search_breadth() -> None:
    rng = np.random.default_rng(0)
    index = build_index(HNSW, InMemory(unit_rows(rng, 500, 32)))
    _, row_QK = index.search(unit_rows(rng, 3, 32), 200, breadth=4)
    assert (row_QK != NO_ROW).all()


@pytest.mark.parametrize("spec", SPECS, ids=name)
def test_a_saved_index_answers_the_same_at_the_breadth_it_is_opened_with(
    tmp_path: Path, spec: VectorSpec
) -> None:
    rng = np.random.default_rng(1)
    query_QD = unit_rows(rng, 4, 16)
    index = build_index(spec, InMemory(unit_rows(rng, 300, 16)))
    index.save(tmp_path / "vectors")
    breadth = None if spec.kind == "flat" else 5
    loaded = load(tmp_path / "vectors", breadth=breadth)
    assert (len(loaded), loaded.dimension) == (300, 16)
    before = index.search(query_QD, 5, breadth=breadth)
    for one, other in zip(before, loaded.search(query_QD, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spec", [FLAT, HNSW, IVF, UNROTATED, *SPECS[4:]], ids=name)
def test_an_opened_index_is_shared_with_other_processes(tmp_path: Path, spec: VectorSpec) -> None:
    rng = np.random.default_rng(1)
    build_index(spec, InMemory(unit_rows(rng, 5000, 64))).save(tmp_path / "vectors")
    before = anonymous_bytes()
    index = load(tmp_path / "vectors", breadth=None if spec.kind == "flat" else 2)
    index.search(unit_rows(rng, 4, 64), 5)
    grown = anonymous_bytes() - before
    assert grown < 0.5 * (tmp_path / "vectors").stat().st_size


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind."""
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    return int(fields[fields.index("Anonymous:") + 1]) * 1024


def test_a_smaller_code_makes_a_smaller_index(tmp_path: Path) -> None:
    vectors = InMemory(unit_rows(np.random.default_rng(1), 4000, 64))
    num_bytes = {}
    for spec in (FLAT, *SPECS[4:6], UNROTATED):
        build_index(spec, vectors).save(tmp_path / "vectors")
        num_bytes[name(spec)] = (tmp_path / "vectors").stat().st_size
    whole = num_bytes["flat-none"]
    assert num_bytes["flat-fp16"] == pytest.approx(whole / 2, rel=0.01)
    assert num_bytes["flat-sq8"] == pytest.approx(whole / 4, rel=0.01)
    assert num_bytes["ivf_pq-none"] < whole / 6


def test_the_same_seed_makes_the_same_index(tmp_path: Path) -> None:
    vectors = InMemory(unit_rows(np.random.default_rng(1), 300, 16))
    for file in ("one", "other"):
        build_index(IVF_PQ, vectors, seed=3).save(tmp_path / file)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_codes_are_learnt_without_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    build_index(IVF_PQ, InMemory(unit_rows(np.random.default_rng(1), 300, 16)))
    assert capfd.readouterr() == ("", "")


def test_a_sample_is_drawn_without_replacement_and_depends_on_the_seed() -> None:
    vectors = InMemory(np.arange(40_000, dtype=np.float32)[:, None])
    sample = sample_rows(vectors, 1000, seed=0)[:, 0]
    assert len(set(sample.tolist())) == 1000
    assert (np.diff(sample) > 0).all()
    assert sample.max() > 16_384
    assert (sample == sample_rows(vectors, 1000, seed=0)[:, 0]).all()
    assert (sample != sample_rows(vectors, 1000, seed=1)[:, 0]).any()
    assert len(sample_rows(vectors, 10**6, seed=0)) == 40_000


@pytest.mark.parametrize("spec", [FLAT, IVF], ids=name)
@pytest.mark.parametrize("damage", ["missing", "empty", "other", "cut"])
def test_a_missing_or_damaged_index_says_to_build_again(
    tmp_path: Path, spec: VectorSpec, damage: str
) -> None:
    path = tmp_path / "vectors"
    build_index(spec, InMemory(unit_rows(np.random.default_rng(1), 500, 16))).save(path)
    content: Any = path.read_bytes()
    path.unlink()
    damaged = {"empty": b"", "other": b"no index", "cut": content[: len(content) // 2]}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match="build the index again"):
        load(path)
